"""The rules on batch norm and dropout, on small records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from wellfit.record import Record
from wellfit.rules.backward.useless_bias import UselessBias
from wellfit.rules.initialisation.dropout_extreme import DropoutExtreme
from wellfit.rules.normalisation.bn_gap import BnGap
from wellfit.rules.normalisation.bn_mode import BnMode
from wellfit.rules.normalisation.bn_small_batch import BnSmallBatch
from wellfit.rules.normalisation.dropout_before_bn import DropoutBeforeBn
from wellfit.testing import MadeRun

NAN = math.nan
FLAT = [2.3] * 60
FALLING = [max(2.3 - 0.1 * step, 0.05) for step in range(60)]
PLACE = {"file": "train.py", "line": 5}


def normed(
    folder: Path, losses: list[float], elements: float = 32, gap: float = 0.1, spread: float = 1.0,
    shape: list[int] | None = None, momentum: float = 0.1, evaluated: float | None = None, norm: str = "BatchNorm1d",
) -> Record:  # fmt: skip
    """A run with one batch norm, whose statistics stay the same; evaluated twice at `evaluated`."""
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    made.loss_function()
    made.declare(
        "layer", name="bn", **{"class": norm}, kind="norm", order=0, location=PLACE, input_shape=shape or [32, 8],
        attributes={"momentum": momentum},
    )  # fmt: skip
    made.declare("loss", id=1, function="cross_entropy", reduction="mean", prediction_shape=[100, 10])
    for place, loss in enumerate(losses):
        made.out.statistics(
            made.steps, [(made.out.series("norm", "bn"), elements, gap, gap, spread, spread, *[NAN] * 3)]
        )
        made.step(loss)
        if evaluated is not None and place in (len(losses) // 2, len(losses) - 1):
            made.evaluation(evaluated)
    return made.record()


@pytest.mark.parametrize(
    ("losses", "elements", "evaluated", "severities"),
    [
        (FLAT, 2, None, ["error"]),
        (FALLING, 2, None, ["note"]),
        (FALLING, 4, None, ["note"]),
        (FALLING, 5, None, []),
        (FLAT, 4, None, []),  # what else may be ill is not known
        (FLAT, 4, 7.0, ["error"]),
        (FLAT, 4, 2.4, []),
        (FLAT, 8, 7.0, []),
        (FLAT[:5], 2, None, []),
    ],
)
def test_bn_small_batch(
    tmp_path: Path, losses: list[float], elements: float, evaluated: float | None, severities: list[str]
) -> None:
    found = list(BnSmallBatch().check(normed(tmp_path, losses, elements, evaluated=evaluated)))
    assert [one.severity for one in found] == severities


def test_many_places_of_two_samples_are_few_numbers_too(tmp_path: Path) -> None:
    record = normed(tmp_path / "a", FLAT, 128, shape=[2, 8, 8, 8], evaluated=7.0)
    (found,) = BnSmallBatch().check(record)
    assert found.severity == "error" and "of 2 samples" in found.message
    assert not list(BnSmallBatch().check(normed(tmp_path / "b", FALLING, 128, shape=[2, 8, 8, 8])))
    assert not list(BnSmallBatch().check(normed(tmp_path / "c", FLAT, 2, norm="SyncBatchNorm")))


LONG = [max(2.3 - 0.02 * step, 0.2) for step in range(160)]


@pytest.mark.parametrize(
    ("gap", "spread", "evaluated", "severities"),
    [
        (1.5, 1.0, 2.0, ["error"]),
        (0.1, 8.0, 2.0, ["error"]),
        (0.1, 0.1, 2.0, ["error"]),
        (1.5, 1.0, None, ["note"]),
        (1.5, 1.0, 0.2, []),  # evaluation does as well as training
        (0.9, 3.0, 2.0, []),
        (NAN, NAN, 2.0, []),
    ],
)
def test_bn_gap(tmp_path: Path, gap: float, spread: float, evaluated: float | None, severities: list[str]) -> None:
    found = list(BnGap().check(normed(tmp_path, LONG, gap=gap, spread=spread, evaluated=evaluated)))
    assert [one.severity for one in found] == severities


def test_a_gap_before_the_running_statistics_could_follow_or_of_few_numbers_is_nothing(tmp_path: Path) -> None:
    assert not list(BnGap().check(normed(tmp_path / "a", LONG[:100], gap=1.5, evaluated=2.0)))
    assert not list(BnGap().check(normed(tmp_path / "b", LONG, elements=8, gap=1.5, evaluated=2.0)))


@pytest.mark.parametrize(
    ("momentum", "elements", "evaluated", "severities"),
    [
        (0.99, 32, 2.0, ["error"]),
        (0.99, 100, 2.0, ["note"]),
        (0.6, 32, 2.0, ["note"]),
        (0.99, 300, 2.0, []),
        (0.99, 32, 0.2, []),
        (0.3, 32, 2.0, []),
    ],
)
def test_a_momentum_of_the_other_kind(
    tmp_path: Path, momentum: float, elements: float, evaluated: float, severities: list[str]
) -> None:
    record = normed(tmp_path, LONG, elements, momentum=momentum, evaluated=evaluated)
    assert [one.severity for one in BnGap().check(record)] == severities


def in_eval_mode(folder: Path, std: float = 0.0, requires_grad: bool = True, steps: int = 30) -> MadeRun:
    """A batch norm that a program puts into eval mode after `train()` of the whole model, which also has dropout."""
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    made.loss_function()
    made.weight("fc.weight")
    made.declare("layer", name="model", root="model", kind="container", order=3)
    made.declare(
        "layer", name="bn", **{"class": "BatchNorm1d"}, kind="norm", order=1, location=PLACE,
        parameters=["bn.weight", "bn.bias"], root="model",
    )  # fmt: skip
    for name, rms in (("bn.weight", 1.0), ("bn.bias", 0.0)):
        made.declare(
            "parameter", name=name, layer="bn", shape=[8], requires_grad=requires_grad, optimizer=0,
            initial={"std": std, "rms": rms, "amax": rms},
        )  # fmt: skip
    made.event("mode", root="model", training=True, location=PLACE)
    made.event("mode", root="bn", training=False, location={"file": "train.py", "line": 9})
    made.event("forward-mode", training_layers=["drop"], eval_layers=["bn"])
    for _ in range(steps):
        made.step(1.0, {"fc.weight": 0.01})
    return made


def test_fresh_batch_norm_in_eval_mode(tmp_path: Path) -> None:
    made = in_eval_mode(tmp_path)
    (found,) = BnMode().check(made.record())
    assert found.severity == "error" and found.location is not None and found.location.line == 9
    assert all(not one.sure for one in BnMode().check(made.record(finished=False)))


@pytest.mark.parametrize("change", [{"std": 0.2}, {"requires_grad": False}, {"steps": 5}])
def test_batch_norm_that_was_loaded_or_frozen_or_hardly_seen_is_left_alone(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert not list(BnMode().check(in_eval_mode(tmp_path, **change).record()))


def test_a_batch_norm_that_comes_back_to_train_mode_is_left_alone(tmp_path: Path) -> None:
    made = in_eval_mode(tmp_path)
    made.event("forward-mode", training_layers=["drop", "bn"], eval_layers=[])
    made.step(1.0)
    assert not list(BnMode().check(made.record()))


def test_a_model_left_in_eval_mode_as_a_whole_is_another_rule_s_business(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.loss_function()
    made.weight("fc.weight")
    made.event("mode", root="model", training=False, location=PLACE)
    rest = in_eval_mode(tmp_path / "again")
    assert list(BnMode().check(rest.record()))
    made.declare("layer", name="model", root="model", kind="container", order=3)
    made.event("forward-mode", training_layers=[], eval_layers=["bn"])
    for _ in range(30):
        made.step(1.0, {"fc.weight": 0.01})
    assert not list(BnMode().check(made.record()))


def dropped(
    folder: Path,
    losses: list[float],
    p: float,
    behind: bool = False,
    norm: bool = False,
    evaluated: float | None = None,
) -> Record:
    """fc, ReLU and dropout, then a batch norm or not, then the head; or dropout behind the head."""
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    made.loss_function()
    made.weight("fc.weight")
    made.weight("head.weight")
    made.declare(
        "layer", name="drop", **{"class": "Dropout"}, kind="dropout", order=1, attributes={"p": p}, location=PLACE
    )
    made.declare("layer", name="bn", **{"class": "BatchNorm1d"}, kind="norm", order=2, location=PLACE)
    made.declare("loss", id=1, function="cross_entropy", reduction="mean", prediction_shape=[100, 10])
    first = [("LogSoftmaxBackward0", {"function": "cross_entropy"})]
    drop = [("MulBackward0", {"function": "dropout", "layer": "drop"})]
    head = [("AddmmBackward0", {"layer": "head", "parameter": None})]
    inside = [("ReluBackward0", {}), ("AddmmBackward0", {"layer": "fc"})]
    batch_norm = [("NativeBatchNormBackward0", {"layer": "bn"})] if norm else []
    line = [*first, *drop, *head, *inside] if behind else [*first, *head, *batch_norm, *drop, *inside]
    nodes = [{"id": 0, "op": "NllLossBackward0", "function": "cross_entropy", "next": [1]}]
    nodes += [
        {"id": place, "op": op, "next": [place + 1] if place < len(line) else [], **more}
        for place, (op, more) in enumerate(line, 1)
    ]
    made.declare("graph", step=0, backward=0, nodes=nodes)
    for loss in losses:
        made.out.statistics(made.steps, [(made.out.series("norm", "bn"), 32, 0.1, 0.1, 1, 1, *[NAN] * 3)])
        made.step(loss)
    if evaluated is not None:
        made.evaluation(evaluated)
    return made.record()


@pytest.mark.parametrize(
    ("losses", "p", "evaluated", "severities"),
    [
        (FLAT, 0.9, None, ["error"]),
        (FALLING, 0.8, None, ["note"]),
        (FLAT, 0.8, 0.2, ["note"]),  # what dropout hides in training, evaluation shows
        (FALLING, 0.9, None, ["error"]),
        (FLAT, 0.7, None, []),
        (FLAT[:10], 0.9, None, []),
    ],
)
def test_dropout_of_nearly_all(
    tmp_path: Path, losses: list[float], p: float, evaluated: float | None, severities: list[str]
) -> None:
    found = list(DropoutExtreme().check(dropped(tmp_path, losses, p, evaluated=evaluated)))
    assert [one.severity for one in found] == severities


@pytest.mark.parametrize(
    ("losses", "p", "severities"),
    [(FALLING, 0.5, ["error"]), (FALLING, 0.1, ["note"]), (FLAT, 0.1, ["error"]), (FLAT, 0.01, [])],
)
def test_dropout_behind_the_last_layer(tmp_path: Path, losses: list[float], p: float, severities: list[str]) -> None:
    found = list(DropoutExtreme().check(dropped(tmp_path, losses, p, behind=True)))
    assert [one.severity for one in found] == severities


@pytest.mark.parametrize(
    ("losses", "p", "norm", "severities"),
    [
        (FLAT, 0.6, True, ["error"]),
        (FALLING, 0.6, True, ["note"]),
        (FLAT, 0.4, True, []),
        (FLAT, 0.6, False, []),
        (FLAT[:30], 0.6, True, []),
    ],
)
def test_dropout_before_batch_norm(
    tmp_path: Path, losses: list[float], p: float, norm: bool, severities: list[str]
) -> None:
    found = list(DropoutBeforeBn().check(dropped(tmp_path, losses, p, norm=norm)))
    assert [one.severity for one in found] == severities


BIASED: list[dict[str, Any]] = [
    {"id": 0, "op": "NllLossBackward0", "next": [1]},
    {"id": 1, "op": "NativeBatchNormBackward0", "next": [2, 5, 6], "layer": "norm"},
    {"id": 2, "op": "AddmmBackward0", "next": [3, 4], "layer": "fc"},
    {"id": 3, "op": "AccumulateGrad", "parameter": "fc.bias", "shape": [8]},
    {"id": 4, "op": "AccumulateGrad", "parameter": "fc.weight", "shape": [8, 4]},
    {"id": 5, "op": "AccumulateGrad", "parameter": "norm.weight", "shape": [8]},
    {"id": 6, "op": "AccumulateGrad", "parameter": "norm.bias", "shape": [8]},
]


def behind(op: str) -> list[dict[str, Any]]:
    """The same with an operation between the layer and the norm."""
    return [{**node, "next": [9, 5, 6]} if node["id"] == 1 else node for node in BIASED] + [
        {"id": 9, "op": op, "next": [2]}
    ]


@pytest.mark.parametrize(
    ("nodes", "named"),
    [
        (BIASED, True),
        (behind("TransposeBackward0"), True),
        (behind("ReluBackward0"), False),
        ([{**node, "next": [1, 2]} if node["id"] == 0 else node for node in BIASED], False),  # a way around the norm
        ([{**node, "next": [1, 3]} if node["id"] == 0 else node for node in BIASED], False),  # the bias has more to do
        ([{**node, "shape": [4]} if node["id"] == 5 else node for node in BIASED], False),  # other channels
        ([{**node, "layer": None} if node["id"] == 1 else node for node in BIASED], False),  # of no norm in train mode
    ],
)
def test_a_bias_that_batch_norm_takes_away(tmp_path: Path, nodes: list[dict[str, Any]], named: bool) -> None:
    made = MadeRun(tmp_path)
    made.declare("layer", name="fc", **{"class": "Linear"}, kind="linear", order=0, location=PLACE)
    made.declare("layer", name="norm", **{"class": "BatchNorm1d"}, kind="norm", order=1, location=PLACE)
    made.declare("parameter", name="fc.bias", layer="fc", shape=[8], requires_grad=True, optimizer=0,
                 initial={"std": 0.1, "rms": 0.1, "amax": 0.3})  # fmt: skip
    made.declare("graph", step=0, backward=0, nodes=nodes)
    made.out.statistics(0, [(made.out.series("norm", "norm"), 32, 0.1, 0.2, 1.0, 1.0, NAN, NAN, NAN)])
    made.step(2.3)
    found = list(UselessBias().check(made.record()))
    assert [(one.severity, one.layer) for one in found] == ([("note", "fc")] if named else [])
