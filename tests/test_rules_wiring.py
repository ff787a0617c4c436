"""The arithmetic of the rules on how a program is put together: what the optimizer holds and keeps, when the scheduler
is stepped, and what the loss sums over; on records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from wellfit.finding import Finding
from wellfit.rules.initialisation.sum_reduction import SumReduction
from wellfit.rules.update.optimizer_reborn import OptimizerReborn
from wellfit.rules.update.scheduler_order import SchedulerOrder
from wellfit.rules.update.wrong_object import WrongObject
from wellfit.testing import MadeRun

WEIGHT, OLD = "fc.weight", "old.weight"
PLACE = {"file": "experiment.py", "line": 3}


def parameter(made: MadeRun, name: str, optimizer: int | None, order: int, root: str, std: float = 1.0) -> None:
    """A weight of a layer that is a root by itself, or lies in one."""
    layer = name.rpartition(".")[0]
    made.declare("layer", name=layer, **{"class": "Linear"}, kind="linear", order=order, parameters=[name], root=root)
    made.declare("parameter", name=name, layer=layer, shape=[64, 64], requires_grad=True, optimizer=optimizer,
                 initial={"std": std, "rms": std, "amax": 2.0})  # fmt: skip


# wrong-object -------------------------------------------------------------------------------------------------------


def with_two_models(folder: Path, held: bool = False, order: int = -1) -> MadeRun:
    """The optimizer holds `old`, which has no gradient; the loss reaches `fc`, which is `held` or not."""
    made = MadeRun(folder)
    made.declare("optimizer", id=0, **{"class": "SGD"}, location=PLACE, groups=[{"lr": 0.1}],
                 parameters=[OLD, *([WEIGHT] if held else [])])  # fmt: skip
    parameter(made, WEIGHT, 0 if held else None, 0, "model")
    parameter(made, OLD, 0, order, "old")
    nodes = [
        {"id": 0, "op": "NllLossBackward0", "next": [1]},
        {"id": 1, "op": "AccumulateGrad", "parameter": WEIGHT, "shape": [64, 64]},
    ]
    made.declare("graph", step=0, backward=0, nodes=nodes)
    made.event("no-gradient", optimizer=0, parameters=[OLD], count=1, total=2 if held else 1)
    return made


def test_an_optimizer_of_another_model_is_blamed_where_it_is_made(tmp_path: Path) -> None:
    made = with_two_models(tmp_path)
    for _ in range(3):
        made.step(2.3)
    (finding,) = WrongObject().check(made.record(finished=False))
    assert (finding.severity, finding.location and finding.location.line) == ("error", 3)
    assert not finding.sure and "`fc.weight`" in finding.message
    for _ in range(17):
        made.step(2.3)
    (finding,) = WrongObject().check(made.record(finished=False))
    assert finding.sure


@pytest.mark.parametrize(("held", "order", "steps"), [(True, -1, 30), (False, 1, 30), (False, -1, 2)])
def test_models_that_are_held_or_called_and_runs_of_two_steps_are_left_alone(
    tmp_path: Path, held: bool, order: int, steps: int
) -> None:
    made = with_two_models(tmp_path, held, order)
    for _ in range(steps):
        made.step(2.3)
    assert not list(WrongObject().check(made.record()))


def with_a_copy(folder: Path, name: str = "average", std: float = 1.0, first: int = 30) -> MadeRun:
    """A trained weight, and a copy of it that is evaluated twice."""
    made = MadeRun(folder)
    parameter(made, WEIGHT, 0, 0, "model")
    nodes = [
        {"id": 0, "op": "NllLossBackward0", "next": [1]},
        {"id": 1, "op": "AccumulateGrad", "parameter": WEIGHT, "shape": [64, 64]},
    ]
    made.declare("graph", step=0, backward=0, nodes=nodes)
    for step in range(60):
        if step in (first, first + 20):
            parameter(made, f"{name}.weight", None, 1, name, std)
            made.event("evaluation", root=name, training=False)
        made.step(2.0 - step / 100, {WEIGHT: 0.01})
    return made


def test_an_average_that_is_never_updated(tmp_path: Path) -> None:
    (finding,) = WrongObject().check(with_a_copy(tmp_path).record())
    assert (finding.severity, finding.layer, finding.step) == ("error", "average", 30)


@pytest.mark.parametrize(
    "given",
    [
        {"std": 0.9},  # it has changed
        {"name": "untrained"},  # kept on purpose
        {"first": 10},  # too early to tell
    ],
)
def test_copies_that_are_right_as_they_are(tmp_path: Path, given: dict[str, Any]) -> None:
    assert not list(WrongObject().check(with_a_copy(tmp_path, **given).record()))


@pytest.mark.parametrize(("losses", "told"), [((2.0, 2.0, 2.0), 1), ((2.0, 2.0, 1.5), 0)])
def test_the_loss_of_a_copy_shows_whether_it_learns_later(tmp_path: Path, losses: tuple[float, ...], told: int) -> None:
    made = with_a_copy(tmp_path)
    made.loss_function(id=1, training=False)
    for loss in losses:
        made.evaluation(loss)
        made.step(1.0)
    assert len(list(WrongObject().check(made.record()))) == told


# scheduler-order ----------------------------------------------------------------------------------------------------


def scheduled(folder: Path, rates: list[float], losses: list[float], kind: str = "StepLR", **settings: Any) -> MadeRun:
    """A run with a scheduler made on line 4, and these learning rates."""
    made = MadeRun(folder)
    made.loss_function()
    made.weight(WEIGHT)
    made.declare("scheduler", id=0, **{"class": kind}, optimizer=0, settings=settings,
                 location={"file": "experiment.py", "line": 4})  # fmt: skip
    before = 0.1
    for rate, loss in zip(rates, losses, strict=True):
        if rate != before:
            made.out.row(ord("H"), 0, 0, made.steps, rate, 0.0)
            before = rate
        made.step(loss)
    return made


FLAT = [2.0] * 200
FALLING = [2.0 * 0.97**step for step in range(200)]
GONE = [0.1 * 0.5**step for step in range(200)]


def told(made: MadeRun) -> list[Finding]:
    return list(SchedulerOrder().check(made.record()))


def test_a_rate_that_is_gone_at_once_is_an_error_where_nothing_was_learned(tmp_path: Path) -> None:
    (finding,) = told(scheduled(tmp_path, GONE, FLAT, "ExponentialLR"))
    assert (finding.severity, finding.location and finding.location.line) == ("error", 4)
    assert "by step 7 of 200" in finding.message


@pytest.mark.parametrize(
    ("rates", "losses", "kind"),
    [
        (GONE, FALLING, "ExponentialLR"),  # it learned all the same
        (GONE, FLAT, "ReduceLROnPlateau"),  # the rate falls because the loss does not
        ([0.1] * 110 + [0.001] * 90, FLAT, "StepLR"),  # a good half of the run went before
        ([0.05 * (1 + math.cos(math.pi * step / 200)) for step in range(200)], FLAT, "CosineAnnealingLR"),
        ([0.0] * 19 + [0.1] * 181, FALLING, "LambdaLR"),
        (GONE[:40], FLAT[:40], "ExponentialLR"),  # a trial
    ],
)
def test_other_schedules_are_as_they_should_be(
    tmp_path: Path, rates: list[float], losses: list[float], kind: str
) -> None:
    assert not told(scheduled(tmp_path, rates, losses, kind))


def test_a_first_epoch_with_a_rate_of_0_changes_nothing(tmp_path: Path) -> None:
    made = scheduled(tmp_path, [0.0] * 20 + [0.1] * 180, FALLING, "LambdaLR")
    (finding,) = told(made)
    assert finding.severity == "error" and "first 20 of 200" in finding.message
    made.declare("optimizer", id=1, **{"class": "SGD"}, groups=[{}], parameters=[])
    (finding,) = told(made)
    assert finding.severity == "note"  # one part may begin later on purpose


@pytest.mark.parametrize(("losses", "severity"), [(FLAT, "error"), (FALLING, "note")])
def test_a_schedule_in_steps_that_is_stepped_once_an_epoch(tmp_path: Path, losses: list[float], severity: str) -> None:
    rates = [0.004 + 0.0001 * (step // 25) for step in range(200)]
    (finding,) = told(scheduled(tmp_path, rates, losses, "OneCycleLR", total_steps=200))
    assert finding.severity == severity and "planned for 200 steps" in finding.message


def test_a_cosine_in_epochs_that_is_stepped_at_each_batch(tmp_path: Path) -> None:
    rates = [0.05 * (1 + math.cos(math.pi * step / 10)) for step in range(200)]
    (finding,) = told(scheduled(tmp_path, rates, FLAT, "CosineAnnealingLR", T_max=10))
    assert finding.severity == "error" and "every 20 steps" in finding.message


def test_a_run_that_was_cut_off_says_nothing_of_its_schedule(tmp_path: Path) -> None:
    made = scheduled(tmp_path, GONE, FLAT, "ExponentialLR")
    made.event("stopped", by="stop-after")
    assert not told(made)


# optimizer-reborn ---------------------------------------------------------------------------------------------------


def optimizers(folder: Path, lives: int, steps: int, kind: str = "Adam") -> MadeRun:
    """One optimizer after the other, each for some steps on the same weight; the loss falls all along."""
    made = MadeRun(folder)
    made.weight(WEIGHT)
    for life in range(lives):
        made.declare("optimizer", id=life, **{"class": kind}, location=PLACE, groups=[{"lr": 0.1}], parameters=[WEIGHT])
        for _ in range(steps):
            made.out.row(ord("B"), 0, 0, made.steps, 2.0 / (1 + made.steps / 20), 0.0)
            made.out.row(ord("S"), life, 0, made.steps, 0.0, 0.0)
            made.steps += 1
    return made


def test_an_optimizer_that_is_made_at_each_step(tmp_path: Path) -> None:
    made = optimizers(tmp_path, 8, 1)
    (finding,) = OptimizerReborn().check(made.record(finished=False))
    assert (finding.severity, finding.location and finding.location.line) == ("error", 3)
    assert not finding.sure and "at each step" in finding.message


def test_an_optimizer_that_is_made_once_an_epoch_is_noted(tmp_path: Path) -> None:
    (finding,) = OptimizerReborn().check(optimizers(tmp_path, 4, 30).record())
    assert finding.severity == "note" and finding.evidence["steps_each"] == 30


@pytest.mark.parametrize(("lives", "steps", "kind"), [(2, 5, "Adam"), (8, 1, "SGD"), (1, 90, "Adam")])
def test_a_second_one_or_one_without_state_is_fine(tmp_path: Path, lives: int, steps: int, kind: str) -> None:
    assert not list(OptimizerReborn().check(optimizers(tmp_path, lives, steps, kind).record()))


def test_a_model_that_is_made_anew_as_well_has_an_optimizer_of_its_own(tmp_path: Path) -> None:
    made = optimizers(tmp_path, 4, 5)
    made.declare("layer", name="fc", **{"class": "Linear"}, kind="linear", order=7, parameters=[WEIGHT])
    assert not list(OptimizerReborn().check(made.record()))


def updated(
    folder: Path, kind: str, group: dict[str, Any], updates: list[tuple[float, float]], gradients: list[float]
) -> MadeRun:
    """One optimizer; (rms, largest element) of each update, and rms of each gradient."""
    made = MadeRun(folder)
    made.weight(WEIGHT)
    made.declare("optimizer", id=0, **{"class": kind}, location=PLACE, groups=[group], parameters=[WEIGHT])
    nan = float("nan")
    for (rms, largest), gradient in zip(updates, gradients, strict=True):
        rows = [
            (made.out.series("update", WEIGHT), 1024.0, 0.0, rms, largest, 0.0, 0.0, 1.0, nan),
            (made.out.series("gradient", WEIGHT), 4096.0, 0.0, gradient, 4 * gradient, 0.0, 0.0, nan, nan),
        ]
        made.out.statistics(made.steps, rows)
        made.step(2.0 - made.steps / 100)
    return made


CHANGING = [0.01 * (1 + step % 5) for step in range(40)]
ADAM, MOMENTUM = {"lr": 0.1, "betas": [0.9, 0.999]}, {"lr": 0.1, "momentum": 0.9}
SIGNS = [(0.1, 0.1)] * 40


@pytest.mark.parametrize(
    ("group", "updates", "gradients", "found"),
    [
        (ADAM, SIGNS, CHANGING, True),
        (ADAM, SIGNS, [0.01 * (1 + 0.1 * (step % 5)) for step in range(40)], False),  # a true Adam would do the same
        (ADAM, [(0.07, 0.1)] * 40, CHANGING, False),  # elements differ
        (ADAM, [(0.1 + 0.002 * step, 0.1 + 0.002 * step) for step in range(40)], CHANGING, False),
        (ADAM, SIGNS[:10], CHANGING[:10], False),  # too few
        ({**ADAM, "betas": [0.0, 0.0]}, SIGNS, CHANGING, False),  # the sign on purpose
    ],
)
def test_adam_s_first_step_again_and_again(
    tmp_path: Path, group: dict[str, Any], updates: list[tuple[float, float]], gradients: list[float], found: bool
) -> None:
    assert bool(list(OptimizerReborn().check(updated(tmp_path, "Adam", group, updates, gradients).record()))) == found


@pytest.mark.parametrize(
    ("group", "factor", "found"),
    [
        (MOMENTUM, 1.0, True),
        (MOMENTUM, 1.1, False),
        (MOMENTUM, 2.3, False),  # of gradients that are noise
        ({**MOMENTUM, "momentum": 0.0}, 1.0, False),
        ({**MOMENTUM, "dampening": 0.9}, 1.0, False),
        ({**MOMENTUM, "nesterov": True}, 1.9, True),
    ],
)
def test_momentum_that_never_builds_up(tmp_path: Path, group: dict[str, Any], factor: float, found: bool) -> None:
    updates = [(0.1 * gradient * factor, gradient) for gradient in CHANGING]
    assert bool(list(OptimizerReborn().check(updated(tmp_path, "SGD", group, updates, CHANGING).record()))) == found


# sum-reduction ------------------------------------------------------------------------------------------------------


def summed(folder: Path, losses: list[float], ratio: float, reduction: str = "sum", kind: str = "SGD") -> MadeRun:
    """A cross-entropy over 32 samples of 10 classes; the update ratio is 1 at first, and then `ratio`."""
    made = MadeRun(folder)
    made.declare("optimizer", id=0, **{"class": kind}, location=PLACE, groups=[{"lr": 0.1}], parameters=[WEIGHT])
    made.weight(WEIGHT)
    made.declare("loss", id=0, function="cross_entropy", location={"file": "experiment.py", "line": 6},
                 prediction_shape=[32, 10], target_shape=[32], reduction=reduction, training=True)  # fmt: skip
    for loss in losses:
        made.out.row(ord("L"), 0, 0, made.steps, loss, 0.0)
        made.step(loss, {WEIGHT: ratio})
    return made


GUESS = 32 * math.log(10)


def test_a_sum_whose_steps_are_too_long(tmp_path: Path) -> None:
    made = summed(tmp_path, [GUESS, 900.0, 1e4, *[GUESS * 1.01] * 60], 0.05)
    (finding,) = SumReduction().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 6)
    assert finding.evidence["numbers"] == 32


@pytest.mark.parametrize(
    "given",
    [
        {"losses": [GUESS * 0.95**step for step in range(100)]},  # it learns
        {"ratio": 0.005},  # steps are not long: something else is wrong
        {"reduction": "mean", "losses": [2.3] * 100},
        {"kind": "Adam"},  # its steps do not follow the size of the gradient
        {"losses": [GUESS] * 10},  # too short
    ],
)
def test_other_sums_are_left_alone(tmp_path: Path, given: dict[str, Any]) -> None:
    made = summed(tmp_path, **{"losses": [GUESS] * 100, "ratio": 0.05, **given})
    assert not list(SumReduction().check(made.record()))
