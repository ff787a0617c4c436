"""The rules on how frequent labels are and in which order they come, on small records written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from wellfit.rules.data.class_imbalance import ClassImbalance
from wellfit.rules.data.label_sorted import LabelSorted
from wellfit.testing import MadeRun

TEN = math.log(10)


def made_run(folder: Path, **loss: object) -> MadeRun:
    """Of a model that is given 32 samples a step, under a cross-entropy of 10 classes."""
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    made.declare("layer", name="model", root="model", kind="container", order=1, input_shape=[32, 64])
    declared = {
        "function": "cross_entropy", "reduction": "mean", "training": True, "prediction_shape": [32, 10],
        "target_shape": [32], "location": {"file": "train.py", "line": 6}, **loss,
    }  # fmt: skip
    made.declare("loss", id=0, **declared)
    return made


def step(
    made: MadeRun, loss: float, entropy: float = 2.1, pool: float = TEN, most: float = 0.11, least: float = 0.09,
    classes: int = 10, batch_most: float = 0.2, count: int = 32,
) -> None:  # fmt: skip
    row = (count, entropy, pool, most, least, classes, 0.0, batch_most)
    made.out.statistics(made.steps, [(made.out.series("labels", "0"), *row)])
    made.step(loss)


def imbalanced(folder: Path, end: float, most: float = 0.97, steps: int = 60, **loss: object) -> MadeRun:
    """Two classes, of which the frequent one has a share of `most`; the loss ends at `end` times their entropy."""
    made = made_run(folder, prediction_shape=[32, 2], **loss)
    entropy = -most * math.log(most) - (1 - most) * math.log(1 - most)
    for place in range(steps):
        level = max(0.7 - place * (0.7 - end * entropy) / 20, end * entropy)
        step(made, level, 0.8 * entropy, entropy, most, 1 - most, 2, most)
    return made


@pytest.mark.parametrize(
    ("end", "most", "severities"),
    [
        (1.0, 0.97, ["error"]),
        (0.93, 0.97, ["note"]),
        (0.8, 0.97, []),  # the rare class is told apart
        (1.5, 0.97, []),  # not even the frequencies are known
        (1.0, 0.6, []),
    ],
)
def test_class_imbalance(tmp_path: Path, end: float, most: float, severities: list[str]) -> None:
    found = list(ClassImbalance().check(imbalanced(tmp_path, end, most).record()))
    assert [one.severity for one in found] == severities


def test_weighted_classes_few_labels_and_losses_of_a_sum_say_nothing_of_imbalance(tmp_path: Path) -> None:
    weighted = imbalanced(tmp_path / "a", 1.0, attributes={"weight": True})
    summed = imbalanced(tmp_path / "b", 1.0, reduction="sum")
    short = imbalanced(tmp_path / "c", 1.0, steps=15)
    texts = imbalanced(tmp_path / "d", 1.0, target_shape=[32, 20])
    for made in (weighted, summed, short, texts):
        assert not list(ClassImbalance().check(made.record()))


def test_imbalance_is_not_sure_while_the_run_lives(tmp_path: Path) -> None:
    (found,) = ClassImbalance().check(imbalanced(tmp_path, 1.0).record(finished=False))
    assert not found.sure


def in_order(folder: Path, entropy: float, end: float, steps: int = 40) -> MadeRun:
    """Batches of this entropy, of ten classes that come in turn; the loss falls to `end`."""
    made = made_run(folder)
    for place in range(steps):
        classes = min(2 + place // 4, 10)
        step(made, max(2.3 - place * 0.2, end), entropy, math.log(classes), 1 / classes, 0.08, classes, 0.9)
    return made


@pytest.mark.parametrize(
    ("entropy", "end", "severities"),
    [
        (0.3, 1.5, ["error"]),
        (0.3, 0.1, ["note"]),  # it learns all the same
        (0.9, 0.1, []),  # two or three classes a batch, and it learns
        (0.9, 1.5, ["error"]),
        (2.0, 1.5, []),  # drawn at random
    ],
)
def test_label_sorted(tmp_path: Path, entropy: float, end: float, severities: list[str]) -> None:
    found = list(LabelSorted().check(in_order(tmp_path, entropy, end).record()))
    assert [one.severity for one in found] == severities


def test_what_evaluation_shows_counts_where_training_looks_well(tmp_path: Path) -> None:
    made = in_order(tmp_path, 0.3, 0.1)
    made.declare("loss", id=1, function="cross_entropy", reduction="mean", prediction_shape=[100, 10])
    made.evaluation(3.0)
    (found,) = LabelSorted().check(made.record())
    assert found.severity == "error" and "a loss of 3" in found.message


@pytest.mark.parametrize("shuffle", [True, None])
def test_a_loader_that_shuffles_or_has_a_sampler_of_its_own_is_left_alone(tmp_path: Path, shuffle: bool | None) -> None:
    made = in_order(tmp_path, 0.3, 1.5)
    made.declare("loader", id=0, batch_size=32, shuffle=shuffle, location={"file": "train.py", "line": 4})
    made.event("epoch", loader=0, count=1)
    assert not list(LabelSorted().check(made.record()))


def test_the_line_of_the_loader_is_blamed(tmp_path: Path) -> None:
    made = in_order(tmp_path, 0.3, 1.5)
    made.declare("loader", id=0, batch_size=32, shuffle=False, location={"file": "train.py", "line": 4})
    made.event("epoch", loader=0, count=1)
    (found,) = LabelSorted().check(made.record())
    assert found.location is not None and found.location.line == 4 and "shuffle=True" in found.message


def test_few_batches_say_nothing_of_their_order(tmp_path: Path) -> None:
    assert not list(LabelSorted().check(in_order(tmp_path, 0.3, 1.5, steps=15).record()))


def test_batches_of_one_class_by_design_are_left_alone(tmp_path: Path) -> None:
    made = made_run(tmp_path)
    for place in range(40):  # the class changes at once
        step(made, 2.0, 0.0, math.log(min(place + 1, 10)), 0.1, 0.08, min(place + 1, 10), 1.0)
    assert not list(LabelSorted().check(made.record()))


@pytest.mark.parametrize(("alone", "found"), [(30, True), (4, False)])
def test_single_samples_are_judged_by_the_first_of_them(tmp_path: Path, alone: int, found: bool) -> None:
    made = made_run(tmp_path)
    made.declare("layer", name="model", root="model", kind="container", order=1, input_shape=[1, 64])
    made.declare(
        "loss", id=0, function="cross_entropy", reduction="mean", training=True, prediction_shape=[1, 10],
        target_shape=[1], location={"file": "train.py", "line": 6},
    )  # fmt: skip
    for place in range(80):
        classes = 1 if place < alone else 2
        step(made, 2.3, 0.0, 0.0 if place < alone else 0.69, 1.0 if place < alone else 0.5, 0.5, classes, 1.0, count=1)
    assert bool(list(LabelSorted().check(made.record()))) == found


@pytest.mark.parametrize("rule", [ClassImbalance, LabelSorted])
def test_labels_that_are_not_a_number_say_nothing(
    tmp_path: Path, rule: type[ClassImbalance] | type[LabelSorted]
) -> None:
    made = made_run(tmp_path)
    nan = math.nan
    for _ in range(60):
        step(made, nan, nan, nan, nan, nan, 0, nan, 0)
    assert not list(rule().check(made.record()))


@pytest.mark.parametrize(("entropy", "severities"), [(0.01, ["error"]), (0.46, [])])
@pytest.mark.parametrize("function", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_two_classes_of_which_the_first_was_watched_more(
    tmp_path: Path, function: str, entropy: float, severities: list[str]
) -> None:
    made = made_run(tmp_path, function=function)
    for place in range(45):  # the first steps are all watched, and all of the first class
        most = 1.0 if place < 30 else 0.83
        step(made, 0.69, entropy, 0.0 if place < 30 else 0.46, most, 1 - most, 1 if place < 30 else 2, 0.98)
    assert [one.severity for one in LabelSorted().check(made.record())] == severities
