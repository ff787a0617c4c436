"""The rules on training data beside held-out data, on small records written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wellfit.record import Record
from wellfit.rules.curve.val_too_good import ValTooGood
from wellfit.rules.data.split_leak import SplitLeak
from wellfit.testing import MadeRun

PROGRAM = """import torch
x, y = load()
x_train, {held} = split(x)
y_train, y_val = split(y)
for step in range(60):
    loss = cross_entropy(model(x_train), y_train)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        print(model({held}))
"""


def leaking(
    folder: Path, shared: int, evaluated: int = 100, held: str = "x_test", shape: tuple[int, ...] = (32, 64),
    real: bool = True, losses: list[float] | None = None,
) -> MadeRun:  # fmt: skip
    """A run of which `shared` samples of `evaluated` were also trained on."""
    folder.mkdir(exist_ok=True)
    file = folder / "train.py"
    file.write_text(PROGRAM.format(held=held))
    made = MadeRun(folder)
    made.declare("process", rank=0, world_size=1, main_file=str(file))
    made.declare("layer", name="model", root="model", kind="container", order=1, input_shape=list(shape))
    made.declare(
        "loss", id=0, function="cross_entropy", reduction="mean", training=True, prediction_shape=[32, 10],
        target_shape=[32], location={"file": str(file), "line": 6},
    )  # fmt: skip
    for place, loss in enumerate(losses or [2.3 - 0.03 * place for place in range(60)]):
        if real and place < 5:
            row = (64.0, 0.0, 1.0, 3.0, 0.0, 0.0, 1.0, 0.0)
            made.out.statistics(made.steps, [(made.out.series("input", "model#0"), *row)])
        made.step(loss)
    made.event("evaluation", root="model", training=False, batch=100, location={"file": str(file), "line": 10})
    made.declare("samples", root="model", trained=500, evaluated=evaluated, trained_calls=1500, shared=shared)
    return made


@pytest.mark.parametrize(("shared", "severities"), [(50, ["error"]), (12, ["note"]), (4, []), (0, [])])
def test_split_leak(tmp_path: Path, shared: int, severities: list[str]) -> None:
    found = list(SplitLeak().check(leaking(tmp_path, shared).record()))
    assert [one.severity for one in found] == severities
    assert all(one.location is not None and one.location.line == 3 and not one.sure for one in found)


def test_few_rows_small_rows_and_tokens_are_alike_by_nature(tmp_path: Path) -> None:
    few = leaking(tmp_path / "a", 8, evaluated=10)
    small = leaking(tmp_path / "b", 50, shape=(32, 4))
    tokens = leaking(tmp_path / "c", 50, shape=(32, 20), real=False)
    for made in (few, small, tokens):
        assert not list(SplitLeak().check(made.record()))
    assert list(SplitLeak().check(leaking(tmp_path / "d", 50, shape=(32, 40), real=False).record()))


@pytest.mark.parametrize("held", ["x_train", "probe"])
def test_data_that_no_name_calls_held_out_is_left_alone(tmp_path: Path, held: str) -> None:
    assert not list(SplitLeak().check(leaking(tmp_path, 50, held=held).record()))


def test_several_models_games_and_evaluation_with_gradient_are_left_alone(tmp_path: Path) -> None:
    folds = leaking(tmp_path / "a", 50)
    folds.out.row(ord("S"), 1, 0, folds.steps, 1.0, 0.0)  # another optimizer
    game = leaking(tmp_path / "b", 50)
    game.declare("loss", id=0, function="cross_entropy", training=False)
    tuned = leaking(tmp_path / "c", 50)
    tuned.steps = 30
    tuned.event("mode", root="model", training=False, location={"file": "train.py", "line": 9})
    for made in (folds, game, tuned):
        assert not list(SplitLeak().check(made.record()))


FALLING = [2.3 - 0.01 * place for place in range(60)]


def evaluated(
    folder: Path, values: list[float], losses: list[float] = FALLING, program: str = PROGRAM, **other: Any
) -> Record:
    """A classifier evaluated after every fifteen steps; `other` changes the evaluation's loss function."""
    folder.mkdir(exist_ok=True)
    file = folder / "train.py"
    file.write_text(program.format(held="x_val"))
    made = MadeRun(folder)
    made.declare("process", rank=0, world_size=1, main_file=str(file))
    made.declare("layer", name="model", root="model", kind="container", order=1, input_shape=[32, 64])
    alike = {
        "function": "cross_entropy", "reduction": "mean", "target_dtype": "int64",
        "location": {"file": str(file), "line": 6},
    }  # fmt: skip
    made.declare("loss", id=0, training=True, prediction_shape=[32, 10], target_shape=[32], **alike)
    made.declare("loss", id=1, training=False, **{**alike, "prediction_shape": [300, 10], **other})
    for place, loss in enumerate(losses):
        row = (32.0, 2.1, 2.3, 0.11, 0.09, 10.0, 0.0, 0.2)
        made.out.statistics(made.steps, [(made.out.series("labels", "0"), *row)])
        made.step(loss)
        if place % 15 == 14 and place // 15 < len(values):
            made.evaluation(values[place // 15])
    return made.record()


@pytest.mark.parametrize(
    ("values", "severities"),
    [
        ([1.0, 1.0, 1.0, 1.0], ["error"]),
        ([1.0, 1.0], []),  # two passes
        ([1.0, 1.0, 1.8, 1.0], []),  # not each time
        ([1.7, 1.7, 1.7, 1.7], []),
        ([float("nan")] * 4, []),
    ],
)
def test_an_evaluation_far_below_training(tmp_path: Path, values: list[float], severities: list[str]) -> None:
    found = list(ValTooGood().check(evaluated(tmp_path, values)))
    assert [one.severity for one in found] == severities
    assert all(one.location is not None and one.location.line == 4 for one in found)


def test_a_training_that_does_better_is_noted_and_one_that_does_well_is_not(tmp_path: Path) -> None:
    better = [2.0] * 5 + [0.9] * 55
    (found,) = ValTooGood().check(evaluated(tmp_path / "a", [0.4] * 4, better))
    assert found.severity == "note"
    assert not list(ValTooGood().check(evaluated(tmp_path / "b", [0.1] * 4, [2.0] * 5 + [0.3] * 55)))


@pytest.mark.parametrize(
    "other",
    [
        {"function": "nll_loss"},
        {"attributes": {"label_smoothing": 0.1}},
        {"prediction_shape": [20, 10]},
        {"prediction_shape": [300, 12]},
    ],
)
def test_other_losses_and_few_samples_are_not_compared(tmp_path: Path, other: dict[str, Any]) -> None:
    assert not list(ValTooGood().check(evaluated(tmp_path, [1.0] * 4, **other)))


@pytest.mark.parametrize(
    "line", ["x_train = add_noise(x_train)", "import torchvision", "from mine import load", "x = ("]
)
def test_programs_that_may_make_training_harder_are_left_alone(tmp_path: Path, line: str) -> None:
    program = PROGRAM.replace("x, y = load()\n", f"x, y = load()\n{line}\n")
    assert not list(ValTooGood().check(evaluated(tmp_path, [1.0] * 4, program=program)))
