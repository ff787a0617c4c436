"""The arithmetic of the update rules, on records written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_training import FALLING, FLAT, NAN, Training, place, row
from probed import many

from wellfit.condition import condition, rise
from wellfit.record import Curve, Record
from wellfit.rules.ratios import path_length, update_ratios
from wellfit.rules.update.decay_dominates import DecayDominates
from wellfit.rules.update.frozen_intent import FrozenIntent
from wellfit.rules.update.layer_imbalance import LayerImbalance
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


def test_the_typical_ratio_is_of_the_steps_that_were_sampled(tmp_path: Path) -> None:
    made = MadeRun(tmp_path)
    made.weight(WEIGHT)
    assert update_ratios(made.record()).typical() == 0.0
    for step in range(40):
        made.step(1.0, {WEIGHT: 0.5 if step < 20 else 0.01} if step % 10 == 0 else None)
    ratios = update_ratios(made.record())
    assert ratios.typical() == pytest.approx(0.255, rel=1e-5)
    assert ratios.typical(begin=15) == pytest.approx(0.01, rel=1e-5)
    assert float(ratios.largest.max()) == pytest.approx(0.5, rel=1e-5)


def test_long_steps_of_a_run_that_does_not_learn_are_an_error(tmp_path: Path) -> None:
    (finding,) = LrHigh().check(made_run(tmp_path, [2.3] * 100, 0.05).record())
    assert (finding.severity, finding.location and finding.location.line) == ("error", 3)
    assert finding.evidence["u"] == pytest.approx(0.05)


@pytest.mark.parametrize("losses", [falling(2.3, 0.1, 100)])
def test_long_steps_of_a_run_that_learns_are_no_error(tmp_path: Path, losses: list[float]) -> None:
    assert not [f for f in LrHigh().check(made_run(tmp_path, losses, 0.05).record()) if f.severity == "error"]


@pytest.mark.parametrize(("ratio", "end", "found"), [(0.3, 1.8, True), (0.3, 0.4, False), (0.12, 1.8, False)])
def test_first_steps_that_no_weight_bears(tmp_path: Path, ratio: float, end: float, found: bool) -> None:
    """Only the first ten are long: what is left of the network then learns a part."""
    made = made_run(tmp_path, falling(2.3, end, 100)[:10], ratio)
    for loss in falling(2.3, end, 100)[10:]:
        made.step(loss, {WEIGHT: 0.005})
    severities = [one.severity for one in LrHigh().check(made.record())]
    assert severities == ["error"] * found


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


@pytest.mark.parametrize(
    ("ratio", "first", "fix"),
    [
        (0.05, 0.05, "lr=scale:0.1"),
        (0.2, 0.2, "lr=scale:0.1"),
        (1.0, 0.2, "lr=scale:0.01"),  # as long as the weights: it may be more
        (1.0, 8.0, "lr=scale:0.01"),
        (1.0, 80.0, "lr=scale:0.001"),  # the first step tells how much more
        (1.0, 8e6, "lr=scale:0.001"),
        (1.0, math.inf, "lr=scale:0.001"),
    ],
)
def test_the_rate_is_divided_by_what_the_steps_are_too_long(
    tmp_path: Path, ratio: float, first: float, fix: str
) -> None:
    made = made_run(tmp_path, [], 0.0)
    made.step(2.3, {WEIGHT: first})  # the weight was of rms 1
    for _ in range(99):
        made.step(2.3, {WEIGHT: ratio})
    (finding,) = LrHigh().check(made.record())
    assert finding.fixes[0].override == fix
    by = round(1 / float(fix.rpartition(":")[2]))
    assert f"divide it by {by}," in finding.message and finding.fixes[0].title.endswith(f" by {by}")


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


@pytest.mark.parametrize("unchanged", [0.7, 1.0])
def test_steps_that_half_precision_rounds_away_are_another_illness(tmp_path: Path, unchanged: float) -> None:
    made = made_run(tmp_path, [2.3] * 60, 1e-4, unchanged=unchanged, dtype="bfloat16")
    assert not list(NeverUpdated().check(made.record()))


def test_a_learning_rate_of_0_is_named_in_half_precision_too(tmp_path: Path) -> None:
    made = made_run(tmp_path, [2.3] * 60, 0.0, unchanged=1.0, dtype="bfloat16")
    made.declare("optimizer", id=0, groups=[{"lr": 0.1}, {"lr": 0.0}], parameters=[WEIGHT])
    made.declare("hyper", id=1, optimizer=0, group=1, name="lr")
    made.out.row(ord("H"), 0, 1, 0, 0.0, 0.0)
    (finding,) = NeverUpdated().check(made.record())
    assert finding.evidence["lr"] == 0


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


# decay-dominates -----------------------------------------------------------------------------------------------------


def decaying(
    folder: Path, losses: list[float], left: float, gradient: float = 0.01, decay: float = 0.1, kind: str = "SGD"
) -> Record:
    """A weight of 16 numbers that falls from rms 1 to `left`, under this gradient."""
    told = Training(folder)
    told.layer("l0", 10)
    told.out.declare({"type": "optimizer", "id": 0, "class": kind, "location": place(80), "groups": [{}]})
    for id, (name, value) in enumerate([("lr", 0.1), ("weight_decay", decay)]):
        told.out.declare({"type": "hyper", "id": id, "optimizer": 0, "group": 0, "name": name})
        told.out.row(ord("H"), 0, id, 0, value, 0.0)
    sizes = [left ** (step / 79) for step in range(80)]
    told.measure("parameter", "l0.weight", [row(size) for size in sizes])
    told.measure("gradient", "l0.weight", [row(gradient)] * 80)
    told.measure("update", "l0.weight", [row(0.1 * gradient, a=size) for size in sizes])
    return told.record(losses)


def test_a_decay_that_wins_over_the_gradient(tmp_path: Path) -> None:
    [found] = DecayDominates().check(decaying(tmp_path, FLAT, 0.01))
    assert found.severity == "error" and found.location is not None and found.location.line == 80
    assert 1 < found.evidence["force"] < 10 and found.evidence["left"] == pytest.approx(0.01, rel=1e-3)


def test_a_decay_that_is_most_of_each_step(tmp_path: Path) -> None:
    [found] = DecayDominates().check(decaying(tmp_path, FLAT, 0.01, gradient=0.1, kind="AdamW"))
    assert "% of each step" in found.message


def test_a_decay_under_which_what_was_learned_is_lost_for_a_while(tmp_path: Path) -> None:
    losses = [*falling(2.3, 1.5, 100), *[2.25] * 200, *falling(2.3, 0.8, 100)]
    [found] = DecayDominates().check(decaying(tmp_path, losses, 0.01))
    assert found.severity == "error"


@pytest.mark.parametrize(("gradient", "told"), [(0.01, True), (0.056, False)])
def test_a_decay_where_the_loss_does_not_tell(tmp_path: Path, gradient: float, told: bool) -> None:
    """It must win more clearly: losses of both signs, as of a policy, may stay where they are."""
    losses = [0.3 * (-1) ** (step // 3) for step in range(80)]
    record = decaying(tmp_path, losses, 0.01, gradient=gradient)
    assert condition(record).adversarial
    assert [found.severity for found in DecayDominates().check(record)] == ["error"] * told


@pytest.mark.parametrize(("end", "severity"), [(0.8, "note"), (1.3, "error")])
def test_a_decay_in_a_run_that_learns_half_is_a_note(tmp_path: Path, end: float, severity: str) -> None:
    [found] = DecayDominates().check(decaying(tmp_path, falling(2.0, end, 80), 0.01))
    assert found.severity == severity


@pytest.mark.parametrize(
    ("losses", "given"),
    [
        (FALLING, {}),  # it learns
        (FLAT, {"left": 0.6}),  # weights of healthy runs shrink that much
        (FLAT, {"gradient": 0.2}),  # the gradient is stronger
        (FLAT, {"decay": 0.0}),
        (FLAT, {"gradient": 1.0, "kind": "AdamW"}),
        (FLAT, {"gradient": NAN}),
    ],
)
def test_a_decay_that_is_not_to_blame(tmp_path: Path, losses: list[float], given: dict[str, Any]) -> None:
    assert not list(DecayDominates().check(decaying(tmp_path, losses, **{"left": 0.01, **given})))


# layer-imbalance -----------------------------------------------------------------------------------------------------


def imbalanced(
    folder: Path, losses: list[float], slow: float = 1e-6, rates: tuple[float, float] = (1e-6, 1e-2), rms: float = 0.289
) -> Record:
    """Two weights with these update ratios, of groups with these learning rates; fresh ones have an rms of 0.289."""
    told = Training(folder)
    told.out.declare({"type": "optimizer", "id": 0, "class": "Adam", "location": place(80), "groups": [{}, {}]})
    for id, rate in enumerate(rates):
        told.out.declare({"type": "hyper", "id": id, "optimizer": 0, "group": id, "name": "lr"})
        told.out.row(ord("H"), 0, id, 0, rate, 0.0)
    for name, ratio in (("slow", slow), ("fast", 0.01)):
        told.layer(name, 10)
        initial = {"std": rms, "rms": rms, "amax": 0.49}
        shape = {"shape": [32, 4], "fan_in": 4, "initial": initial}
        told.out.declare({"type": "parameter", "name": f"{name}.weight", "layer": name, "optimizer": 0, **shape})
        told.measure("update", f"{name}.weight", [row(ratio, a=1.0)] * 80)
    return told.record(losses)


def test_fresh_layers_with_a_tiny_learning_rate(tmp_path: Path) -> None:
    [found] = LayerImbalance().check(imbalanced(tmp_path, FLAT))
    assert (found.severity, found.layer) == ("error", "slow")
    assert found.evidence["weights"] == ["slow.weight"]


@pytest.mark.parametrize(
    ("losses", "given"),
    [
        (FALLING, {}),  # it learns
        (FLAT, {"slow": 2e-4}),  # fifty times slower
        (FLAT, {"rates": (2e-3, 1e-2)}),  # not by its learning rate
        (FLAT, {"rates": (0.0, 1e-2)}),  # never-updated
        (FLAT, {"rms": 0.1}),  # weights that were loaded
        (FLAT, {"slow": NAN}),
    ],
)
def test_layers_that_are_not_called_slow(tmp_path: Path, losses: list[float], given: dict[str, Any]) -> None:
    assert not list(LayerImbalance().check(imbalanced(tmp_path, losses, **given)))


# frozen-intent -------------------------------------------------------------------------------------------------------


def freezing(folder: Path, script: str, trained: bool = True, losses: list[float] = FALLING, share: int = 32) -> Record:
    """The model `net` with `net.body.0` and `net.head`, and the program that freezes."""
    file = folder / "train.py"
    file.write_text(script)
    told = Training(folder)
    told.out.declare({"type": "process", "rank": 0, "world_size": 1, "main_file": str(file)})
    for name, kind in (("net", "container"), ("body", "container")):
        told.out.declare({"type": "layer", "name": name, "kind": kind, "root": "net", "order": 0})
    for name, rows, trains in (("body.0", share, trained), ("head", 8, True)):
        told.layer(name, 10, root="net")
        initial = {"std": 0.289, "rms": 0.289, "amax": 0.49}
        weight = {"shape": [rows, 4], "fan_in": 4, "initial": initial, "optimizer": 0, "requires_grad": trains}
        told.out.declare({"type": "parameter", "name": f"{name}.weight", "layer": name, **weight})
        told.out.declare({"type": "parameter", "name": f"{name}.bias", "layer": name, **weight, "shape": [rows]})
    return told.record(losses)


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("net.body.requires_grad = False", 1),
        ("net.body[0].requires_grad = False", 1),
        ("net.requires_grad = False", 1),
        ("for child in net.body.children():\n    child.requires_grad = False", 2),
        ("for p in net.body.parameters():\n    p.require_grad = False", 2),
        ("for name, p in net.named_parameters():\n    p.requires_grad_ = False", 2),
        ("class Net:\n    def __init__(self):\n        self.body.requires_grad = False\nnet = Net()", 3),
        ("def main():\n    net.body.requires_grad = False\nif __name__ == '__main__':\n    main()", 2),
    ],
)
def test_a_line_that_freezes_nothing(tmp_path: Path, script: str, line: int) -> None:
    [found] = FrozenIntent().check(freezing(tmp_path, script))
    assert found.severity == "error" and found.location is not None and found.location.line == line
    assert "does nothing" in found.message


@pytest.mark.parametrize(
    "script",
    [
        "for p in net.body.parameters():\n    p.requires_grad = False",
        "for net in nets.parameters():\n    net.requires_grad = False",  # a parameter of the same name
        "if frozen:\n    net.body.requires_grad = False",  # perhaps not run
        "def freeze():\n    net.body.requires_grad = False",  # never called
        "net.other.requires_grad = False",
        "x.requires_grad = True",
        "net.body.requires_grad = True",  # without effect, and without harm
        "net.body.requires_grad = False(",
    ],
)
def test_lines_that_are_not_called_without_effect(tmp_path: Path, script: str) -> None:
    assert not list(FrozenIntent().check(freezing(tmp_path, script)))


def test_a_line_that_thaws_nothing(tmp_path: Path) -> None:
    [found] = FrozenIntent().check(freezing(tmp_path, "net.body.requires_grad = True", trained=False))
    assert "stay frozen" in found.message


def test_a_module_that_was_frozen_after_all(tmp_path: Path) -> None:
    assert not list(FrozenIntent().check(freezing(tmp_path, "net.body.requires_grad = False", trained=False)))


def test_layers_that_were_frozen_as_they_were_made(tmp_path: Path) -> None:
    [found] = FrozenIntent().check(freezing(tmp_path, "", trained=False, losses=FLAT))
    assert (found.severity, found.layer) == ("error", "body.0")
    assert found.evidence["share"] == pytest.approx(0.8)


@pytest.mark.parametrize(("losses", "share"), [(FALLING, 32), (FLAT, 7)])
def test_random_layers_of_a_model_that_learns_or_of_small_share_are_fine(
    tmp_path: Path, losses: list[float], share: int
) -> None:
    assert not list(FrozenIntent().check(freezing(tmp_path, "", trained=False, losses=losses, share=share)))
