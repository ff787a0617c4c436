"""grad-spike, on small records that were written by hand: one norm a step, and what the loss did."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from made_training import NAN, Training, place

from wellfit.finding import Finding
from wellfit.rules.backward.grad_spike import GradSpike

STEPS, AT = 200, 100
NORMS = [1.0 + 0.1 * (step % 5) for step in range(STEPS)]
LOSSES = [1.0 - 0.002 * step for step in range(STEPS)]  # ends at 0.6 of its start: it fits poorly


def with_norms(at: dict[int, float]) -> list[float]:
    return [at.get(step, norm) for step, norm in enumerate(NORMS)]


def thrown(until: int = STEPS, own: float = 40.0, high: float = 5.0, end: float | None = None) -> list[float]:
    """Losses that are high from the step after the spike on."""
    losses = [high if AT < step < until else loss for step, loss in enumerate(LOSSES)]
    losses[AT] = own
    return losses if end is None else [*losses[:-40], *[end] * 40]


def judged(
    folder: Path, norms: list[float], losses: list[float], limit: float = 1000.0, finished: bool = True
) -> list[Finding]:
    told = Training(folder)
    told.out.declare({"type": "clip", "id": 0, "function": "clip_grad_norm_", "location": place(91)})
    for step, norm in enumerate(norms):
        told.out.row(ord("C"), 0, 0, step, norm, limit)
    record = told.record(losses)
    record.finished = finished
    return list(GradSpike().check(record))


SPIKE = with_norms({AT: 60.0})


@pytest.mark.parametrize("limit", [1000.0, math.inf, 30.0])
def test_a_long_gradient_that_throws_the_model_back(tmp_path: Path, limit: float) -> None:
    [found] = judged(tmp_path, SPIKE, thrown(), limit)
    assert (found.severity, found.step, found.evidence["spikes"]) == ("error", AT, 1)
    assert found.location is not None and found.location.line == 91
    assert found.evidence["loss_after"] == 5.0
    assert found.fixes[0].override == "clip-norm=2.4"  # twice the usual norm, 1.2


@pytest.mark.parametrize(
    ("norms", "losses", "limit"),
    [
        (SPIKE, LOSSES, 1000.0),  # the loss did not mind
        (SPIKE, thrown(until=AT + 9), 1000.0),  # it was back soon
        (SPIKE, thrown(until=AT + 30, end=0.1), 1000.0),  # it came back, and the run did its job
        (SPIKE, thrown(), 3.0),  # clipping left a step like others: it was not that
        (SPIKE, thrown(own=5.0), 1000.0),  # the batch itself was like those after it: the data changed
        (SPIKE, [-0.1, *thrown()[1:]], 1000.0),  # losses below 0 have no floor
    ],
)
def test_spikes_that_did_no_harm_are_noted(
    tmp_path: Path, norms: list[float], losses: list[float], limit: float
) -> None:
    [found] = judged(tmp_path, norms, losses, limit)
    assert (found.severity, found.step, found.fixes) == ("note", AT, ())


@pytest.mark.parametrize(
    ("what", "norm"),
    [
        ("as always", lambda step: NORMS[step]),
        ("small beside those of the start", lambda step: 1.9 if step == AT else 1.0 if step < 60 else 0.01),
        ("nine times", lambda step: 9.0 if step == AT else 1.0),
        ("as the run begins", lambda step: 60.0 if step in (0, 3, 20) else 1.0),
        ("usual", lambda step: 60.0 if step % 15 == 0 else 1.0),
        ("wide noise", lambda step: 51.0 if step == AT else (1.0, 5.0, 9.0)[step % 3]),
        ("a scale that doubles at each step", lambda step: 1.0 if step < AT else 2.0 ** min(step - AT, 12)),
        ("a scale that is halved", lambda step: 65536.0 if step < AT else 32768.0),
        ("scaled numbers too large", lambda step: math.inf if step == AT else 65536.0),
        ("from now on", lambda step: 60.0 if step >= AT else 1.0),
        ("now and then", lambda step: (NAN, math.inf, 1.0)[step % 3]),
        ("nothing known", lambda step: NAN),
        ("nothing there", lambda step: 60.0 if step == AT else 0.0),
    ],
)
def test_what_is_no_spike(tmp_path: Path, what: str, norm: Callable[[int], float]) -> None:
    assert judged(tmp_path, [norm(step) for step in range(STEPS)], LOSSES) == []


def test_steps_behind_a_spike_are_a_part_of_it(tmp_path: Path) -> None:
    norms = with_norms({AT + step: 60.0 - step for step in range(9)})
    [found] = judged(tmp_path, norms, thrown())
    assert (found.severity, found.evidence["steps"]) == ("error", [str(AT)])


def test_nothing_is_said_before_the_end(tmp_path: Path) -> None:
    assert judged(tmp_path, SPIKE, thrown(), finished=False) == []


def test_nothing_is_said_of_an_empty_record(tmp_path: Path) -> None:
    assert judged(tmp_path, [], []) == []


def test_gradients_of_two_models_cut_at_one_place_are_told_apart(tmp_path: Path) -> None:
    """A small optimizer steps seldom, with gradients that are always long."""
    told = Training(tmp_path)
    told.out.declare({"type": "optimizer", "id": 1, "class": "SGD", "location": place(81), "parameters": []})
    told.out.declare({"type": "clip", "id": 0, "function": "clip_grad_norm_", "location": place(91)})
    told.out.declare({"type": "pattern", "id": 0, "events": ["backward", "step:0"]})
    for step in range(600):
        second = step % 40 == 39
        told.out.row(ord("C"), 0, 0, step, 60.0 if second else 1.0, 1.0)
        told.out.row(ord("B"), 0, 0, step, 1.0, float(step))
        told.out.row(ord("S"), int(second), 0, step, float(step), 0.0)
    assert list(GradSpike().check(told.record([]))) == []


def test_the_longest_gradient_of_a_step_that_clips_several_counts(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.out.declare({"type": "clip", "id": 0, "function": "clip_grad_norm_", "location": place(91)})
    for step, norm in enumerate(SPIKE):
        for each in (0.01, norm, 0.02):
            told.out.row(ord("C"), 0, 0, step, each, math.inf)
    [found] = GradSpike().check(told.record(thrown()))
    assert (found.severity, found.evidence["norm"]) == ("error", 60.0)
