"""The arithmetic of the update rules, on records written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probed import many

from wellfit.condition import condition, rise
from wellfit.record import Curve
from wellfit.rules.ratios import path_length, update_ratios
from wellfit.rules.update.lr_high import LrHigh
from wellfit.rules.update.lr_low import LrLow
from wellfit.rules.update.never_updated import NeverUpdated
from wellfit.testing import MadeRun

WEIGHT = "fc.weight"


def made_run(
    folder: Path, losses: list[float], ratio: float, unchanged: float = 0.0, dtype: str = "float32"
) -> MadeRun:
    made = MadeRun(folder)
    made.loss_function()
    made.weight(WEIGHT, dtype)
    for loss in losses:
        made.step(loss, {WEIGHT: ratio}, unchanged)
    return made


def falling(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * step / steps for step in range(steps)]


def test_the_path_counts_steps_that_were_not_sampled(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.weight(WEIGHT)
    for step in range(100):
        made.step(1.0, {WEIGHT: 0.01} if step % 10 == 0 else None)
    record = made.record()
    ratios = update_ratios(record)
    assert ratios.value.shape == (1, 10)
    assert path_length(ratios, record.step_count) == pytest.approx(1.0, rel=1e-5)


def test_long_steps_of_a_run_that_does_not_learn_are_an_error(tmp_path: Path) -> None:
    (finding,) = LrHigh().check(made_run(tmp_path, [2.3] * 100, 0.05).record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 3)
    assert finding.evidence["u"] == pytest.approx(0.05)


@pytest.mark.parametrize("losses", [falling(2.3, 0.1, 100)])
def test_long_steps_of_a_run_that_learns_are_no_error(tmp_path: Path, losses: list[float]) -> None:
    assert not [f for f in LrHigh().check(made_run(tmp_path, losses, 0.05).record()) if f.severity == "error"]


def test_a_flat_run_with_usual_steps_is_not_the_learning_rate_s_fault(tmp_path: Path) -> None:
    assert not list(LrHigh().check(made_run(tmp_path, [2.3] * 100, 0.005).record()))


def test_a_first_jump_after_which_the_loss_is_not_finite(tmp_path: Path) -> None:
    made = made_run(tmp_path, [2.3, 900.0, 1e9, float("inf"), *[float("nan")] * 30], 1.2)
    (finding,) = LrHigh().check(made.record())
    assert finding.severity == "error" and finding.step == 0


def test_summed_gradients_are_blamed_on_the_backward_line(tmp_path: Path) -> None:
    made = made_run(tmp_path, [2.3], 1.2)
    made.declare("pattern", id=0, events=["backward"] * 16 + ["step:0", "zero_grad:0"])
    for loss in [50.0, 900.0, *[float("nan")] * 30]:
        made.step(loss, {WEIGHT: 1.2})
    made.out.row(ord("L"), 0, 0, 0, 2.3, 0.0)
    (finding,) = LrHigh().check(made.record())
    assert finding.location is not None and finding.location.line == 7
    assert finding.evidence["calls"] == 16


def test_a_divided_loss_is_not_blamed_for_being_summed(tmp_path: Path) -> None:
    made = made_run(tmp_path, [2.3], 1.2)
    made.declare("pattern", id=0, events=["backward"] * 16 + ["step:0", "zero_grad:0"])
    for loss in [50.0, 900.0, *[float("nan")] * 30]:
        made.step(loss, {WEIGHT: 1.2})
    made.out.row(ord("L"), 0, 0, 0, 2.3 * 16, 0.0)
    (finding,) = LrHigh().check(made.record())
    assert finding.location is not None and finding.location.line == 3


def test_a_short_path_with_a_loss_still_falling_is_an_error_at_the_end_only(tmp_path: Path) -> None:
    made = made_run(tmp_path, falling(2.3, 2.0, 100), 5e-4)
    assert not list(LrLow().check(made.record(finished=False)))
    (finding,) = LrLow().check(made.record())
    assert finding.severity == "error"
    assert finding.evidence["path"] == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("losses", "ratio"),
    [
        (falling(2.3, 2.0, 100), 1e-2),  # a path of 1
        (falling(2.3, 0.2, 100), 5e-4),  # the loss is low: a model that was trained before
        (falling(2.3, 2.0, 10), 5e-4),  # a trial
    ],
)
def test_other_runs_are_not_called_too_slow(tmp_path: Path, losses: list[float], ratio: float) -> None:
    assert not list(LrLow().check(made_run(tmp_path, losses, ratio).record()))


def test_a_loss_that_settled_high_after_a_short_path_is_noted(tmp_path: Path) -> None:
    losses = [*falling(2.3, 1.6, 20), *[1.6] * 80]
    (finding,) = LrLow().check(made_run(tmp_path, losses, 5e-4).record())
    assert finding.severity == "note"


def test_a_flat_loss_with_tiny_steps_is_told_while_the_run_lives(tmp_path: Path) -> None:
    (finding,) = LrLow().check(made_run(tmp_path, [2.3] * 250, 1e-7).record(finished=False))
    assert finding.severity == "error"


def test_a_parameter_that_keeps_its_value(tmp_path: Path) -> None:
    (finding,) = NeverUpdated().check(made_run(tmp_path, [2.3] * 30, 0.0, unchanged=1.0).record())
    assert (finding.severity, finding.layer) == ("error", "fc")
    assert "1 of 1" in finding.message


def test_a_parameter_that_changes_later_was_updated(tmp_path: Path) -> None:
    made = made_run(tmp_path, [2.3] * 30, 0.0, unchanged=1.0)
    made.step(2.3, {WEIGHT: 0.01}, unchanged=0.0)
    assert not list(NeverUpdated().check(made.record()))


def test_half_precision_that_loses_updates_is_named(tmp_path: Path) -> None:
    (finding,) = NeverUpdated().check(made_run(tmp_path, [2.3] * 60, 1e-4, unchanged=0.7, dtype="bfloat16").record())
    assert finding.severity == "error" and "bfloat16" in finding.message


BEFORE_NORM = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
model = model.to({dtype})
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
prototypes = torch.randn(10, 1, 8, 8)
for step in range(30):
    y = torch.randint(0, 10, (32,))
    x = (prototypes[y] + torch.randn(32, 1, 8, 8)).to({dtype})
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x).float(), y).backward()
    optimizer.step()
"""


@pytest.mark.parametrize(("dtype", "rest"), [("float32", 1e-5), ("bfloat16", 0.1), ("float16", 0.1)])
def test_a_bias_before_batch_norm_has_no_gradient_that_could_move_it(tmp_path: Path, dtype: str, rest: float) -> None:
    record = many(tmp_path, {"script": BEFORE_NORM.format(dtype=f"torch.{dtype}")})["script"].record
    sizes = [float(np.median(record.series("gradient", name).rms)) for name in ("0.bias", "0.weight")]
    assert sizes[0] < rest * sizes[1]  # what the rule's thresholds of noise say of it
    series = record.series("update", "0.bias")
    assert (series.low >= series.count).mean() > 0.5  # rounded away, though its gradient is not quite 0
    told = [name for finding in NeverUpdated().check(record) for name in finding.evidence["parameters"]]
    assert "0.bias" not in told


def test_a_run_that_an_override_cut_off_was_not_to_learn_all(tmp_path: Path) -> None:
    made = made_run(tmp_path, falling(2.3, 2.0, 100), 5e-4)
    assert list(LrLow().check(made.record()))
    made.event("stopped", by="stop-after")
    assert not list(LrLow().check(made.record()))


def test_full_precision_with_some_unchanged_elements_is_fine(tmp_path: Path) -> None:
    assert not list(NeverUpdated().check(made_run(tmp_path, [2.3] * 60, 1e-4, unchanged=0.7).record()))


def test_a_loss_at_the_level_of_guessing_is_flat_however_high_it_began(tmp_path: Path) -> None:
    noisy = [2.32 + 0.02 * (-1) ** step for step in range(100)]
    record = made_run(tmp_path, [9.0, 8.0, 7.0, *noisy], 0.01).record()
    assert condition(record).verdict == "flat"


def test_chance_follows_the_scale_of_the_loss(tmp_path: Path) -> None:
    made = made_run(tmp_path, [0.5] * 60, 0.01)
    made.out.row(ord("L"), 0, 0, 0, 2.0, 0.0)
    assert condition(made.record()).chance == pytest.approx(np.log(10) / 4)


def test_a_rise_is_found_with_its_best_part() -> None:
    value = np.concatenate([np.linspace(2, 1, 60), np.linspace(1, 1.6, 60)]) + 0.01 * np.sin(np.arange(120))
    found = rise(Curve(np.arange(120), value))
    assert found is not None and found.early and found.widths > 4
    assert 50 <= found.step <= 70
    assert rise(Curve(np.arange(20), value[:20])) is None
