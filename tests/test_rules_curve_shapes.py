"""The arithmetic of the rules on the shape of the loss: spikes, swings, a floor too high, and one that is not there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wellfit.rules.curve.oscillation import Oscillation
from wellfit.rules.curve.sign_or_minimum import SignOrMinimum
from wellfit.rules.curve.spike import Spike
from wellfit.rules.curve.underfit import Underfit
from wellfit.testing import MadeRun

WEIGHT = "fc.weight"
NAN = float("nan")


def made_run(folder: Path, losses: list[float], known: str | None = "cross_entropy") -> MadeRun:
    """A run with these losses, of a function of torch's or computed by hand."""
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    if known is not None:
        made.loss_function(known)
    made.weight(WEIGHT)
    for loss in losses:
        made.step(float(loss))
    return made


# spike --------------------------------------------------------------------------------------------------------------


def thrown(peak: float, after: float, every: int = 60, steps: int = 300, lasts: int = 40) -> list[float]:
    """About 1, and now and then one loss of `peak` after which it is `after` for a while."""
    losses = list(1 + 0.1 * np.random.default_rng(0).standard_normal(steps))
    for place in range(every, steps - 10, every):
        losses[place] = peak
        losses[place + 1 : place + 1 + lasts] = [after] * min(lasts, steps - place - 1)
    return losses


def test_batches_that_throw_the_model_back(tmp_path: Path) -> None:
    (finding,) = Spike().check(made_run(tmp_path, thrown(200.0, 5.0), None).record())
    assert finding.severity == "error" and finding.evidence["spikes"] == 4
    assert finding.step == 60 and finding.evidence["lost"] > 0.5


def test_a_run_that_learned_in_spite_of_them_has_a_note(tmp_path: Path) -> None:
    losses = [20.0] * 20 + thrown(200.0, 5.0, lasts=10)
    (finding,) = Spike().check(made_run(tmp_path, losses, None).record())
    assert finding.severity == "note"


@pytest.mark.parametrize(
    "losses",
    [
        thrown(200.0, 1.0),  # hard samples alone
        thrown(12.0, 8.0),  # the data change: what follows is as hard
        thrown(200.0, 5.0, every=110),  # two of them
        [value - 1.5 for value in thrown(200.0, 5.0)],  # below 0 there are no ratios
        list(np.exp(3 * np.random.default_rng(1).standard_normal(600))),  # single samples
        thrown(200.0, 5.0)[:90],
        [*thrown(200.0, 5.0), NAN],
    ],
)
def test_other_high_losses_are_no_spikes(tmp_path: Path, losses: list[float]) -> None:
    assert not list(Spike().check(made_run(tmp_path, losses, None).record()))


def test_models_one_after_the_other_begin_high(tmp_path: Path) -> None:
    made = made_run(tmp_path, thrown(200.0, 5.0), None)
    made.out.row(ord("S"), 1, 0, made.steps, 0.0, 0.0)
    assert not list(Spike().check(made.record()))


def test_nothing_is_said_of_spikes_while_a_run_lives(tmp_path: Path) -> None:
    assert not list(Spike().check(made_run(tmp_path, thrown(200.0, 5.0), None).record(finished=False)))


# oscillation --------------------------------------------------------------------------------------------------------


def swing(pattern: list[float], steps: int = 240) -> list[float]:
    return [pattern[step % len(pattern)] for step in range(steps)]


def test_a_loss_that_turns_at_each_step(tmp_path: Path) -> None:
    made = made_run(tmp_path, swing([1.0, 3.0]), "l1_loss")
    (finding,) = Oscillation().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 3)
    assert finding.evidence["correlation"] < -0.9


@pytest.mark.parametrize(
    "losses",
    [
        swing([1.9, 2.1]),  # hardly
        swing([1.0, 2.0, 3.0]),  # three batches in turn
        swing([1.0, 1.0, 3.0, 3.0]),
        list(2 + np.random.default_rng(0).standard_normal(240).clip(-1.9)),  # noise
        [8.0] * 20 + swing([1.0, 3.0]),  # it has learned most
        swing([1.0, 3.0], 150),  # short
        swing([-1.0, 3.0]),
    ],
)
def test_other_losses_do_not_oscillate(tmp_path: Path, losses: list[float]) -> None:
    assert not list(Oscillation().check(made_run(tmp_path, losses, None).record()))


@pytest.mark.parametrize("kind", ["loader", "loss", "optimizer"])
def test_two_batches_or_losses_may_take_turns(tmp_path: Path, kind: str) -> None:
    made = made_run(tmp_path, swing([1.0, 3.0]), "l1_loss")
    assert list(Oscillation().check(made.record()))
    if kind == "loader":
        made.declare("loader", id=0, length=2)
    elif kind == "loss":
        made.loss_function("mse_loss", id=1)
    else:
        made.declare("optimizer", id=1, **{"class": "Adam"}, groups=[{}], parameters=[])
    assert not list(Oscillation().check(made.record()))


# underfit -----------------------------------------------------------------------------------------------------------


def narrow(folder: Path, losses: list[float], units: int = 1, around: bool = False, places: int | None = None) -> Any:
    """64 inputs, `units` numbers, 10 classes; with a way `around` for the input, or these numbers at many places."""
    made = MadeRun(folder)
    made.loss_function()
    layers = {"body": (64, units), "head": (units, 10), **({"way": (64, 10)} if around else {})}
    for order, (name, (given, gives)) in enumerate(layers.items()):
        shape = [32, given] if places is None else [32, places, given]
        made.declare(
            "layer", name=name, **{"class": "Linear"}, kind="linear", location={"file": "experiment.py", "line": 5},
            order=order, parameters=[f"{name}.weight"], input_shape=shape,
            attributes={"in_features": given, "out_features": gives},
        )  # fmt: skip
        made.declare("parameter", name=f"{name}.weight", layer=name, shape=[gives, given], optimizer=0)
    nodes: list[dict[str, Any]] = [
        {"id": 0, "op": "NllLossBackward0", "next": [1, 5] if around else [1]},
        {"id": 1, "op": "AddmmBackward0", "layer": "head", "next": [2, 3]},
        {"id": 2, "op": "AccumulateGrad", "parameter": "head.weight", "shape": [10, units]},
        {"id": 3, "op": "AddmmBackward0", "layer": "body", "next": [4]},
        {"id": 4, "op": "AccumulateGrad", "parameter": "body.weight", "shape": [units, 64]},
        {"id": 5, "op": "AddmmBackward0", "layer": "way", "next": [6]},
        {"id": 6, "op": "AccumulateGrad", "parameter": "way.weight", "shape": [10, 64]},
    ]
    made.declare("graph", step=0, backward=0, nodes=nodes)
    for loss in losses:
        made.step(loss)
    return made.record()


RESTS = [1.8 + 0.5 * 0.95**step for step in range(200)]


@pytest.mark.parametrize(("units", "found"), [(1, True), (3, True), (4, False)])
def test_a_layer_too_narrow_for_the_classes(tmp_path: Path, units: int, found: bool) -> None:
    findings = list(Underfit().check(narrow(tmp_path, RESTS, units)))
    assert [(f.layer, f.severity, f.location and f.location.line) for f in findings] == [("body", "error", 5)] * found


@pytest.mark.parametrize(
    "given",
    [
        {"around": True},
        {"places": 12},
        {"losses": [2.3 * 0.98**step for step in range(200)]},  # it learns
        {"losses": [2.3 - 0.003 * step for step in range(200)]},  # still falls
        {"losses": RESTS[:90]},
    ],
)
def test_layers_with_a_way_around_and_runs_that_learn_are_left_alone(tmp_path: Path, given: dict[str, Any]) -> None:
    assert not list(Underfit().check(narrow(tmp_path, **{"losses": RESTS, **given})))


# sign-or-minimum ----------------------------------------------------------------------------------------------------


def negative(folder: Path, function: str, values: list[float], what: str, low: float, high: float) -> MadeRun:
    """Values of a loss function, and the range of its `output` or `target`."""
    made = made_run(folder, [], function)
    for value in values:
        made.out.row(ord("L"), 0, 0, made.steps, value, 0.0)
        made.out.statistics(made.steps, [(made.out.series(what, "0"), 32.0, 0.5, 1.0, 2.0, low, high, NAN, 0.0)])
        made.step(value)
    return made


@pytest.mark.parametrize(
    ("function", "values", "what", "low", "high", "found"),
    [
        ("nll_loss", [-0.1] * 30, "output", 0.0, 1.0, True),
        ("nll_loss", [-0.1] * 30, "output", -3.0, -0.1, False),  # weights of rewards
        ("nll_loss", [-0.1, 0.1] * 15, "output", 0.0, 1.0, False),
        ("nll_loss", [-1e-6] * 30, "output", 0.0, 1.0, False),  # rounding
        ("kl_div", [-0.5] * 30, "output", -9.0, 0.0, False),  # of samples, with both logarithms
        ("binary_cross_entropy_with_logits", [0.5] * 20 + [-2.0] * 3, "target", 0.0, 2.0, True),
        ("binary_cross_entropy_with_logits", [0.5] * 20 + [-2.0] * 2, "target", 0.0, 2.0, False),
        ("binary_cross_entropy", [0.5, -2.0] * 15, "target", 0.0, 1.0, False),  # weights of rewards
        ("mse_loss", [-1.0] * 30, "target", -9.0, 9.0, False),  # not one of them
    ],
)
def test_a_loss_that_cannot_be_negative(
    tmp_path: Path, function: str, values: list[float], what: str, low: float, high: float, found: bool
) -> None:
    findings = list(SignOrMinimum().check(negative(tmp_path, function, values, what, low, high).record()))
    assert [(f.severity, f.location and f.location.line) for f in findings] == [("error", 6)] * found


def test_a_sign_is_certain_live_once_enough_was_seen(tmp_path: Path) -> None:
    made = negative(tmp_path, "nll_loss", [-0.1] * 5, "output", 0.0, 1.0)
    (finding,) = SignOrMinimum().check(made.record(finished=False))
    assert not finding.sure
    made = negative(tmp_path / "more", "nll_loss", [-0.1] * 20, "output", 0.0, 1.0)
    (finding,) = SignOrMinimum().check(made.record(finished=False))
    assert finding.sure


@pytest.mark.parametrize(("multiple", "growth", "found"), [(-1.0, 1.05, True), (-1.0, 1.0, False), (1.0, 1.05, False)])
def test_a_loss_that_is_made_large(tmp_path: Path, multiple: float, growth: float, found: bool) -> None:
    made = made_run(tmp_path, [])
    for step in range(80):
        made.out.row(ord("L"), 0, 0, step, 2.3 * growth**step, 0.0)
        made.step(multiple * 2.3 * growth**step)
    findings = list(SignOrMinimum().check(made.record()))
    assert [(f.location and f.location.line) for f in findings] == [7] * found


def own_loss(folder: Path, losses: list[float], gradient: float, op: str) -> list[Any]:
    """A loss of the program's own, whose graph has an operation below the mean."""
    made = MadeRun(folder)
    made.weight(WEIGHT)
    nodes = [
        {"id": 0, "op": "MeanBackward0", "next": [1]},
        {"id": 1, "op": op, "next": [2]},
        {"id": 2, "op": "AccumulateGrad", "parameter": WEIGHT, "shape": [64, 64]},
    ]
    made.declare("graph", step=0, backward=0, nodes=nodes)
    for loss in losses:
        rows = [(made.out.series("gradient", WEIGHT), 64.0, 0.0, gradient, gradient, 0.0, 0.0, NAN, NAN)]
        made.out.statistics(made.steps, rows)
        made.step(loss)
    return list(SignOrMinimum().check(made.record()))


BOUND = [-float(min(step, 50)) - 1 for step in range(150)]


@pytest.mark.parametrize(
    ("losses", "gradient", "op", "found"),
    [
        (BOUND, 0.0, "ClampBackward1", True),
        (BOUND, 0.1, "ClampBackward1", False),  # still learns, as where the rate is 0
        (BOUND, 0.0, "NegBackward0", False),  # the very minimum: a cosine of 1
        (BOUND[:70], 0.0, "ClampBackward1", False),  # just reached
        ([-math.log(2 + step) for step in range(150)], 0.0, "ClampBackward1", False),  # a density
    ],
)
def test_a_negative_loss_that_rests_on_a_bound(
    tmp_path: Path, losses: list[float], gradient: float, op: str, found: bool
) -> None:
    assert len(own_loss(tmp_path, losses, gradient, op)) == found


def through_zero(folder: Path, losses: list[float], growth: float) -> MadeRun:
    """A sum of a loss function and a part of the program's own at line 5; what a layer gives grows."""
    made = made_run(folder, [], "binary_cross_entropy")
    made.declare(
        "graph", step=0, backward=0,
        nodes=[
            {"id": 0, "op": "AddBackward0", "next": [1, 2], "file": "train.py", "line": 4},
            {"id": 1, "op": "DivBackward0", "next": [3], "file": "train.py", "line": 4},
            {"id": 2, "op": "MulBackward0", "next": [4], "file": "train.py", "line": 5},
            {"id": 3, "op": "BinaryCrossEntropyBackward0", "next": [4]},
            {"id": 4, "op": "AccumulateGrad", "parameter": WEIGHT, "shape": [64, 64]},
        ],
    )  # fmt: skip
    for step, loss in enumerate(losses):
        rms = growth ** (step / len(losses))
        made.out.statistics(
            made.steps, [(made.out.series("activation", "fc"), 32.0, 0.0, rms, rms, 0.0, 0.0, NAN, NAN)]
        )
        made.step(loss)
    return made


FALLEN = [500.0] * 10 + [-(10.0 ** (1 + step / 10)) for step in range(70)]


@pytest.mark.parametrize(
    ("losses", "growth", "found"),
    [
        (FALLEN, 100.0, True),
        (FALLEN, 2.0, False),  # a reward may be any number
        (FALLEN[:60], 100.0, False),  # -1e5, some hundred times the first
        ([-1.0, *FALLEN[1:]], 100.0, False),
        ([500.0 - 20 * step for step in range(80)], 100.0, False),  # a density
        ([0.01] * 10 + [-8.0 * step for step in range(70)], 100.0, False),  # began at about 0
    ],
)
def test_a_sum_with_a_part_without_minimum(tmp_path: Path, losses: list[float], growth: float, found: bool) -> None:
    record = through_zero(tmp_path, losses, growth).record()
    assert [(f.severity, f.location and f.location.line) for f in SignOrMinimum().check(record)] == [
        ("error", 5)
    ] * found
    record.finished = False
    assert list(SignOrMinimum().check(record)) == []
