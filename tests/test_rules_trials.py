"""The rules that are given runs beside a run: their arithmetic and their guards, on records written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forks

from wellfit.catalogue import find_rule, known_rules, rules
from wellfit.diagnose import diagnose, explained
from wellfit.finding import Finding
from wellfit.record import Record
from wellfit.rule import Rule
from wellfit.rules.by_heart import by_heart, came_to_rest
from wellfit.testing import MadeRun, check_healthy, check_message, experiment, judge, script_of

Losses = Callable[[int], float]


def made(folder: Path, loss: Losses, steps: int = 300, moves: float = 0.01, **more: Any) -> Record:
    """A run of a classifier of 10 classes (64 x 64 weights, batches of 32).

    Args:
        loss: at each step.
        moves: rms(update) / rms(weight) at each step.
        more: fields of the loss that differ.
    """
    folder.mkdir()
    run = MadeRun(folder)
    run.declare(
        "loss", id=0, location={"file": "experiment.py", "line": 6},
        **{"function": "cross_entropy", "prediction_shape": [32, 10], "target_shape": [32], "reduction": "mean",
           "target_dtype": "int64", "training": True, **more},
    )  # fmt: skip
    run.weight("fc.weight")
    for step in range(steps):
        run.step(loss(step), {"fc.weight": moves})
    return run.record()


def falls(end: float, over: float = 20.0) -> Losses:
    return lambda step: end + (2.3 - end) * float(np.exp(-step / over))


def noisy(loss: Losses, size: float, seed: int = 0) -> Losses:
    numbers = np.random.default_rng(seed).normal(size=1000)
    return lambda step: loss(step) + size * float(numbers[step])


# cannot-overfit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "more", "outcome"),
    [
        (falls(0.01), {}, "learned"),
        (falls(1.8), {}, "rests"),
        (lambda step: 2.3 - 0.003 * step, {}, "unclear"),  # it still falls
        (falls(1.8), {"steps": 100}, "unclear"),
        (falls(1.8), {"moves": 1e-4}, "unclear"),  # the rate is too low: another rule's business
        (falls(1.8), {"target_dtype": "float32"}, "unclear"),  # soft targets have a floor
        (falls(1.8), {"attributes": {"label_smoothing": 0.1}}, "unclear"),
        (falls(1.8), {"target_shape": [32, 4096]}, "unclear"),  # more than so many parameters can hold
        (lambda step: 0.4, {}, "unclear"),  # trained before
        (lambda step: float("nan"), {}, "unclear"),
        (lambda step: 2.3 + 0.1 * step, {}, "unclear"),
    ],
)
def test_what_came_of_one_batch(tmp_path: Path, loss: Losses, more: dict[str, Any], outcome: str) -> None:
    assert by_heart(made(tmp_path / "trial", loss, **more)).outcome == outcome


def overfitting(tmp_path: Path, loss: Losses, **more: Any) -> list[Finding]:
    plain = made(tmp_path / "plain", falls(2.2), **more)
    found = list(find_rule("cannot-overfit")().check_trial(plain, {"one-batch": made(tmp_path / "one", loss, **more)}))
    for finding in found:
        check_message(finding)
    return found


def test_a_batch_that_is_not_learned_is_an_error_with_its_line(tmp_path: Path) -> None:
    (finding,) = overfitting(tmp_path, falls(1.8))
    assert finding.severity == "error" and finding.location is not None and finding.location.line == 6
    assert "from 2.2 to 1.8 only (2.3 is guessing)" in finding.message


@pytest.mark.parametrize(
    ("loss", "more"),
    [(noisy(falls(1.8), 0.3), {}), (falls(1.8), {"reduction": "sum"}), (falls(1.8), {"function": "own"})],
)
def test_what_may_have_another_reason_is_a_note_at_most(tmp_path: Path, loss: Losses, more: dict[str, Any]) -> None:
    assert [finding.severity for finding in overfitting(tmp_path, loss, **more)] in (["note"], [])


def test_rest_is_told_from_a_fall() -> None:
    steps = np.arange(300.0)
    assert came_to_rest(np.exp(-steps / 20)) and came_to_rest(np.ones(300)) and came_to_rest(steps)
    assert not came_to_rest(300 - steps) and not came_to_rest(np.exp(-steps / 200)) and not came_to_rest(np.ones(20))


# input-ignored ------------------------------------------------------------------------------------------------------


def ignoring(tmp_path: Path, true: Losses, zero: Losses, one: Losses | None = None) -> list[Finding]:
    companions = {"zero-input": made(tmp_path / "zero", zero)}
    if one is not None:
        companions["one-batch"] = made(tmp_path / "one", one)
    found = list(find_rule("input-ignored")().check_trial(made(tmp_path / "plain", true), companions))
    for finding in found:
        check_message(finding)
    return found


@pytest.mark.parametrize(
    ("true", "zero", "one", "severities"),
    [
        (falls(2.2), falls(2.2), falls(1.9), ["error"]),  # nor is one batch learned
        (falls(2.2), falls(2.2), falls(0.01), ["note"]),  # the data say nothing
        (falls(2.2), falls(2.2), None, []),  # it is not known whether the input is of use
        (falls(2.2), falls(2.2), lambda step: 2.3 - 0.003 * step, []),
        (falls(1.0), falls(2.2), falls(1.9), []),
        (falls(2.1), falls(2.2), falls(1.9), []),  # a little better is better
        (falls(2.2), falls(0.1), falls(1.9), []),  # a loss that compares with the zeros
        (noisy(falls(2.2), 2.0, 1), noisy(falls(2.2), 2.0, 2), falls(1.9), []),  # noise hides a difference
    ],
)
def test_a_run_with_its_input_against_one_without(
    tmp_path: Path, true: Losses, zero: Losses, one: Losses | None, severities: list[str]
) -> None:
    assert [finding.severity for finding in ignoring(tmp_path, true, zero, one)] == severities


# batch-leak, grad-mismatch ------------------------------------------------------------------------------------------


def told(tmp_path: Path, rule: str, trial: str, events: list[dict[str, Any]]) -> list[Finding]:
    run = MadeRun(tmp_path)
    run.weight("net.fc.weight")
    for event in events:
        run.event(event["event"], **{key: value for key, value in event.items() if key != "event"})
        run.step(2.0)
    record = run.record()
    found = list(find_rule(rule)().check_trial(record, {trial: record}))
    for finding in found:
        check_message(finding)
    return found


LEAK = {"event": "leak", "root": "net", "layer": "net", "file": "experiment.py", "line": 4, "share": 0.5}
WRONG = {"event": "gradient-test", "function": "Swish", "file": "experiment.py", "line": 9, "error": 0.3, "wrong": 6,
         "directions": 6, "analytic": 1.0, "numeric": 2.0}  # fmt: skip


@pytest.mark.parametrize(
    ("events", "severities"),
    [
        ([LEAK] * 3, ["error"]),
        ([{**LEAK, "share": 1e-5}], []),
        ([LEAK, {**LEAK, "same_batch": True}, {**LEAK, "same_batch": True}], ["note"]),  # the batch is all there is
        ([LEAK, {**LEAK, "layer": "other"}], ["error", "error"]),
        ([], []),
    ],
)
def test_leaks(tmp_path: Path, events: list[dict[str, Any]], severities: list[str]) -> None:
    found = told(tmp_path, "batch-leak", "leak-test", events)
    assert [finding.severity for finding in found] == severities
    assert all(finding.location is not None and finding.location.line == 4 for finding in found)


@pytest.mark.parametrize(
    ("events", "severities"),
    [
        ([WRONG] * 2, ["error"]),
        ([WRONG, {**WRONG, "error": 1e-6, "wrong": 0}], []),  # one of two calls: hard to tell
        ([{**WRONG, "wrong": 2}], []),
        ([{**WRONG, "error": 1e-3}], []),
        ([{**WRONG, "straight": True}], ["note"]),
        ([WRONG, {**WRONG, "argument": 1}], ["error", "error"]),
    ],
)
def test_gradients(tmp_path: Path, events: list[dict[str, Any]], severities: list[str]) -> None:
    found = told(tmp_path, "grad-mismatch", "grad-test", events)
    assert [finding.severity for finding in found] == severities


# In the diagnosis ---------------------------------------------------------------------------------------------------


def test_a_rule_that_fails_beside_trials_is_switched_off(forks: Forks, tmp_path: Path) -> None:
    class Failing(Rule):
        code, name, family, summary = "INI298", "failing", "initialisation", "x"  # type: ignore[assignment]
        trials = ("one-batch",)

        def check_trial(self, record: Record, companions: Any) -> Any:
            raise KeyError("no such trial")

    rule = find_rule("plateau")
    run = forks.checked(script_of(experiment(rule, "healthy")), tmp_path, ("one-batch",), steps=20)
    diagnosis = diagnose(run, [Failing()])
    assert len(diagnosis.problems) == 1 and "no such trial" in diagnosis.problems[0]
    assert run.was_cut and not run.records[0].finished and run.trials["one-batch"].records[0].finished
    assert diagnose(run, [rule()]).problems == []


def test_what_explains_a_plateau_explains_a_batch_that_is_not_learned() -> None:
    reach = explained(rules(), ["cannot-overfit", "input-ignored", "plateau", "loss-head-mismatch"])
    assert {"cannot-overfit", "input-ignored"} <= reach["loss-head-mismatch"]
    assert "plateau" in reach["cannot-overfit"] and "cannot-overfit" in reach["input-ignored"]
    assert "input-ignored" not in reach["cannot-overfit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bn-gap", "hidden-carry", "sum-reduction"])
def test_no_trial_calls_ill_the_healthy_experiment_of(name: str, forks: Forks, tmp_path: Path) -> None:
    trials = sorted({trial for rule in known_rules()[0] for trial in rule.trials})
    run = forks.experiment(experiment(find_rule(name), "healthy"), tmp_path, trials)
    assert len(run.trials) >= 2 and judge(run).problems == []
    check_healthy(name, run)
