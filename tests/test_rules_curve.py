"""The arithmetic of the curve rules, on records written by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from wellfit.condition import condition
from wellfit.rules.curve.diverged import Diverged
from wellfit.rules.curve.eval_mode import MODE_EVENTS, EvalMode
from wellfit.rules.curve.overfit import Overfit
from wellfit.rules.curve.plateau import Plateau
from wellfit.testing import MadeRun

WEIGHT = "fc.weight"


def made_run(folder: Path, losses: list[float], known: bool = True) -> MadeRun:
    """A run with these losses, of a function of torch's or (not `known`) computed by hand."""
    folder.mkdir(exist_ok=True)
    made = MadeRun(folder)
    if known:
        made.loss_function()
    made.weight(WEIGHT)
    for loss in losses:
        made.step(loss)
    return made


def overfitting(folder: Path, evaluations: list[float], training: tuple[float, float] = (2.0, 0.1)) -> MadeRun:
    """Ten steps, then an evaluation, as often as there are evaluations."""
    made = made_run(folder, [])
    made.loss_function(id=1, training=False)
    start, end = training
    for place, value in enumerate(evaluations):
        for step in range(10):
            made.step(start + (end - start) * (10 * place + step) / (10 * len(evaluations)))
        made.evaluation(value)
    return made


def with_norm(folder: Path) -> MadeRun:
    made = made_run(folder, [])
    place = {"file": "experiment.py", "line": 2}
    made.declare("layer", name="model", **{"class": "Net"}, kind="container", root="model", order=3, location=place)
    made.declare("layer", name="fc", **{"class": "Linear"}, kind="linear", root="model", order=0, location=place)
    made.declare("layer", name="bn", **{"class": "BatchNorm1d"}, kind="norm", root="model", order=1, location=place,
                 parameters=[WEIGHT], attributes={"track_running_stats": True})  # fmt: skip
    made.declare("layer", name="drop", **{"class": "Dropout"}, kind="dropout", order=2, location=place,
                 attributes={"p": 0.5})  # fmt: skip
    return made


def test_a_loss_that_grew_for_good_has_diverged(tmp_path: Path) -> None:
    losses = [2.0 - 0.02 * step for step in range(80)] + [0.4 * 1.1**step for step in range(60)]
    (finding,) = Diverged().check(made_run(tmp_path, losses).record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 3)
    assert finding.step is not None and 70 <= finding.step <= 100


def test_a_loss_that_creeps_up_after_its_best_is_told_at_the_end(tmp_path: Path) -> None:
    wobble = [0.05 * math.sin(step) for step in range(240)]
    losses = [(2 - step / 100 if step < 100 else 1 + (step - 100) / 300) + wobble[step] for step in range(240)]
    made = made_run(tmp_path, losses)
    assert not list(Diverged().check(made.record(finished=False)))
    (finding,) = Diverged().check(made.record())
    assert finding.evidence["end"] > 1.2 * finding.evidence["best"]


@pytest.mark.parametrize(
    "losses",
    [
        [2.0 / (1 + step) for step in range(200)],
        [2.0 if step % 7 else 4.0 for step in range(200)],  # noisy from the start
        [2.0 / (1 + step) for step in range(150)] + [0.05, 0.04] * 25,  # wobbles where it is converged
    ],
)
def test_other_losses_have_not_diverged(tmp_path: Path, losses: list[float]) -> None:
    assert not list(Diverged().check(made_run(tmp_path, losses).record()))


def test_models_that_are_trained_one_after_another_rise_and_fall(tmp_path: Path) -> None:
    fall = [2.0 * 0.98**step + 0.1 * (step % 2) for step in range(150)]
    ensemble = [value + 0.02 * member for member in range(5) for value in fall]
    assert not list(Diverged().check(made_run(tmp_path, ensemble).record()))
    # The last of them grows again, and does not come down.
    (finding,) = Diverged().check(
        made_run(tmp_path / "ill", [*ensemble, *(0.1 + 0.02 * step for step in range(500))]).record()
    )
    assert finding.rule == "diverged"


def test_two_losses_that_take_turns_may_rise(tmp_path: Path) -> None:
    made = made_run(tmp_path, [])
    made.declare("optimizer", id=1, **{"class": "Adam"}, groups=[{}], parameters=[])
    for step in range(200):
        made.out.row(ord("B"), 0, 1, made.steps, 1.0, 0.0)
        made.step(1.0 + step / 20)
    record = made.record()
    assert condition(record).adversarial
    assert not list(Diverged().check(record)) and not list(Plateau().check(record))


def test_two_phases_of_one_program_do_not_take_turns(tmp_path: Path) -> None:
    made = made_run(tmp_path, [2.0] * 60)
    made.declare("optimizer", id=1, **{"class": "Adam"}, groups=[{}], parameters=[])
    for step in range(50):
        made.out.row(ord("B"), 0, 1, 60 + step, 1.0, 0.0)
    assert not condition(made.record()).adversarial


def test_a_model_that_has_just_begun_anew_is_not_held_against_those_before(tmp_path: Path) -> None:
    """Boosting, folds, a search: each optimizer takes over from the one before, and its loss begins anew."""
    falling = [2.0 / (1 + step / 5) for step in range(60)]
    made = made_run(tmp_path, falling)
    made.declare("optimizer", id=1, **{"class": "Adam"}, groups=[{}], parameters=[])
    for loss in [2.0] * 30:
        made.out.row(ord("B"), 0, 0, made.steps, loss, 0.0)
        made.out.row(ord("S"), 1, 0, made.steps, 0.0, 0.0)
        made.steps += 1
    assert condition(made.record(finished=False)).verdict == "learning"
    assert condition(made.record()).verdict != "learning"  # that was all: the last one did not learn


def test_what_is_left_is_counted_from_the_lower_of_start_and_chance(tmp_path: Path) -> None:
    state = condition(made_run(tmp_path, [5.0] * 60).record())
    for chance, level in ((2.3, 2.3), (9.0, 5.0), (math.nan, 5.0)):
        assert replace(state, chance=chance).level == level
    assert replace(state, chance=2.3).level_from(1.0) == 1.0


def test_noise_may_hide_that_a_loss_falls(tmp_path: Path) -> None:
    """The few losses at either end of a short run say little where batches differ much."""
    falling = [0.5] * 5 + [0.8 - step / 150 for step in range(45)] + [0.6] * 5
    made = made_run(tmp_path, falling, known=False)
    assert condition(made.record(finished=False)).verdict == "too-short"
    level = [0.7 + 0.2 * (-1) ** step for step in range(55)]
    assert condition(made_run(tmp_path / "level", level, known=False).record(finished=False)).verdict == "flat"


def test_a_hinge_loss_of_one_sample_is_judged_by_its_mean(tmp_path: Path) -> None:
    """Most samples lie on the right side from early on: the median is 0 while the mean still falls."""
    falling = [3.0 / (1 + step / 20) if step % 4 == 0 else 0.0 for step in range(400)]
    assert condition(made_run(tmp_path / "falling", falling, known=False).record()).verdict == "learning"
    assert condition(made_run(tmp_path / "short", falling[:30], known=False).record()).verdict == "too-short"
    level = [3.0 if step % 3 == 0 else 0.0 for step in range(300)]
    assert condition(made_run(tmp_path / "level", level, known=False).record()).verdict == "flat"
    assert condition(made_run(tmp_path / "nothing", [0.0] * 100, known=False).record()).verdict == "flat"


def test_a_loss_of_both_signs_has_no_floor(tmp_path: Path) -> None:
    """Free energy of data less that of samples, or a policy's return times its log-probability."""
    record = made_run(tmp_path, [math.sin(step) for step in range(200)], known=False).record()
    assert condition(record).adversarial
    assert not list(Diverged().check(record)) and not list(Plateau().check(record))


def test_a_loss_at_the_level_of_guessing_is_a_plateau(tmp_path: Path) -> None:
    losses = [2.31 + 0.01 * (-1) ** step for step in range(100)]
    made = made_run(tmp_path, losses)
    assert not list(Plateau().check(made.record(finished=False)))  # 200 steps are wanted while it lives
    (finding,) = Plateau().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 6)


@pytest.mark.parametrize("losses", [[0.5] * 300, [2.3 - 0.01 * step for step in range(100)], [2.3] * 30])
def test_a_low_a_falling_or_a_short_loss_is_no_plateau(tmp_path: Path, losses: list[float]) -> None:
    assert not list(Plateau().check(made_run(tmp_path, losses).record()))


def test_a_flat_loss_that_torch_does_not_name_is_noted(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    for step in range(100):
        made.step(1.0 + 0.01 * (-1) ** step)
    (finding,) = Plateau().check(made.record())
    assert finding.severity == "note"


def test_a_rising_evaluation_loss_is_overfitting(tmp_path: Path) -> None:
    made = overfitting(tmp_path, [1.0, 0.6, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1])
    (finding,) = Overfit().check(made.record())
    assert (finding.severity, finding.evidence["best_pass"], finding.layer) == ("error", 3, "fc")


def test_a_small_rise_is_noted(tmp_path: Path) -> None:
    made = overfitting(tmp_path, [1.0, 0.6, 0.5, 0.53, 0.535, 0.54, 0.55, 0.56, 0.57])
    (finding,) = Overfit().check(made.record())
    assert finding.severity == "note"


@pytest.mark.parametrize(
    ("evaluations", "training"),
    [
        ([1.0, 0.8, 0.6, 0.5, 0.45, 0.44, 0.43], (2.0, 0.1)),  # falls
        ([1.0, 0.5, 0.7, 0.49, 0.7, 0.5, 0.68, 0.48, 0.7], (2.0, 0.1)),  # goes up and down
        ([1.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1], (2.0, 2.4)),  # so does the training loss: it diverges
        ([0.5, 0.9], (2.0, 0.1)),  # too few passes
    ],
)
def test_other_evaluations_are_not_overfitting(
    tmp_path: Path, evaluations: list[float], training: tuple[float, float]
) -> None:
    assert not list(Overfit().check(overfitting(tmp_path, evaluations, training).record()))


def steps_in_mode(made: MadeRun, count: int, training: list[str], off: list[str]) -> None:
    made.event("forward-mode", training_layers=training, eval_layers=off)
    for _ in range(count):
        made.step(1.0, {WEIGHT: 0.01})


def test_training_in_eval_mode_from_the_start(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 9})
    steps_in_mode(made, 30, [], ["bn", "drop"])
    (finding,) = EvalMode().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 9)
    assert finding.evidence["steps"] == 30


def test_train_that_is_not_called_again_is_blamed_on_its_only_call(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    made.event("mode", root="model", training=True, location={"file": "experiment.py", "line": 5})
    steps_in_mode(made, 20, ["bn", "drop"], [])
    made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 12})
    for _ in range(40):
        made.step(1.0)  # not watched: only the calls tell
    (finding,) = EvalMode().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 5)
    assert finding.evidence["from_step"] == 20


def test_a_watched_step_in_train_mode_clears_the_suspicion(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    made.event("mode", root="model", training=True, location={"file": "experiment.py", "line": 5})
    steps_in_mode(made, 20, ["bn", "drop"], [])
    made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 12})
    for _ in range(40):
        made.step(1.0, {WEIGHT: 0.01})  # watched, and no other mode was met
    assert not list(EvalMode().check(made.record()))


def test_frozen_batch_norm_is_noted(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    steps_in_mode(made, 30, ["drop"], ["bn"])
    (finding,) = EvalMode().check(made.record())
    assert finding.severity == "note"


def test_layers_that_are_frozen_again_after_each_evaluation_are_noted(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    for _ in range(3):
        made.event("mode", root="model", training=True, location={"file": "experiment.py", "line": 5})
        made.event("mode", root="bn", training=False, location={"file": "experiment.py", "line": 6})
        made.event("mode", root="drop", training=False, location={"file": "experiment.py", "line": 6})
        steps_in_mode(made, 20, [], ["bn", "drop"])
        made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 12})
    assert [finding.severity for finding in EvalMode().check(made.record())] == ["note"]


def test_the_mode_of_layers_that_do_not_care_is_nobody_s_business(tmp_path: Path) -> None:
    made = made_run(tmp_path, [])
    made.declare("layer", name="ln", **{"class": "LayerNorm"}, kind="norm", order=1, parameters=[WEIGHT])
    made.declare("layer", name="drop", **{"class": "Dropout"}, kind="dropout", order=2, attributes={"p": 0.0})
    made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 9})
    steps_in_mode(made, 30, [], ["ln", "drop"])
    assert not list(EvalMode().check(made.record()))


def test_functional_dropout_in_eval_mode_is_blamed_on_its_line(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    steps_in_mode(made, 30, ["bn", "drop"], [])
    call = {"function": "dropout", "file": "experiment.py", "line": 4, "p": 0.5}
    for _ in range(3):
        made.event("evaluation", root="model", training=False, functional_dropout=[call])
    (finding,) = EvalMode().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 4)


@pytest.mark.parametrize(("calls_eval", "severity"), [(False, "error"), (True, "note")])
def test_evaluation_in_train_mode(tmp_path: Path, calls_eval: bool, severity: str) -> None:
    made = with_norm(tmp_path)
    steps_in_mode(made, 30, ["bn", "drop"], [])
    if calls_eval:  # somewhere the program evaluates properly
        made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 12})
        made.event("evaluation", root="model", training=False, training_layers=[], eval_layers=["bn"])
        made.event("mode", root="model", training=True, location={"file": "experiment.py", "line": 13})
    made.event("evaluation", root="model", training=True, training_layers=["bn", "drop"],
               location={"file": "experiment.py", "line": 15})  # fmt: skip
    (finding,) = EvalMode().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == (severity, 15)


def test_one_watched_step_in_eval_mode_will_do_after_a_call_of_eval(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    steps_in_mode(made, 20, ["bn", "drop"], [])
    made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 12})
    for _ in range(20):
        made.step(1.0)
    steps_in_mode(made, 1, [], ["bn", "drop"])
    for _ in range(20):
        made.step(1.0)
    (finding,) = EvalMode().check(made.record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 12)
    # The call itself tells since when, not the step that was watched.
    assert (finding.step, finding.evidence["from_step"], finding.evidence["steps"]) == (20, 20, 41)


def test_the_steps_in_eval_mode_end_where_train_is_called(tmp_path: Path) -> None:
    made = with_norm(tmp_path)
    steps_in_mode(made, 20, ["bn", "drop"], [])
    made.event("mode", root="model", training=False, location={"file": "experiment.py", "line": 12})
    for _ in range(20):
        made.step(1.0)
    steps_in_mode(made, 1, [], ["bn", "drop"])
    made.event("mode", root="model", training=True, location={"file": "experiment.py", "line": 5})
    for _ in range(20):
        made.step(1.0)
    steps_in_mode(made, 5, ["bn", "drop"], [])
    (finding,) = EvalMode().check(made.record())
    assert (finding.evidence["from_step"], finding.evidence["steps"]) == (20, 21)


@pytest.mark.parametrize("calls", ["of a layer", "too many"])
def test_calls_that_do_not_tell_since_when_leave_the_watched_step(tmp_path: Path, calls: str) -> None:
    made = with_norm(tmp_path)
    steps_in_mode(made, 20, ["bn", "drop"], [])
    for number in range(1 if calls == "of a layer" else MODE_EVENTS):
        root = "drop" if calls == "of a layer" else "model"
        made.event("mode", root=root, training=number % 2 == 0, location={"file": "experiment.py", "line": 12})
    for _ in range(20):
        made.step(1.0)
    steps_in_mode(made, 20, [], ["bn", "drop"])
    (finding,) = EvalMode().check(made.record())
    assert finding.evidence["from_step"] == 40
