"""Rules of the forward pass, on small records that were written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_training import FALLING, FLAT, NAN, Training, place, row

from wellfit.record import Record
from wellfit.rules.forward.activation_growth import ActivationGrowth
from wellfit.rules.forward.dead_units import DeadUnits
from wellfit.rules.forward.detached import Detached
from wellfit.rules.forward.non_finite_forward import NonFiniteForward
from wellfit.rules.forward.output_collapse import OutputCollapse
from wellfit.rules.forward.rank_collapse import RankCollapse
from wellfit.rules.forward.saturated import Saturated
from wellfit.rules.forward.unused_module import UnusedModule

RULES = [ActivationGrowth, RankCollapse, DeadUnits, Detached, NonFiniteForward, OutputCollapse, Saturated, UnusedModule]


def two_layers(folder: Path, activation: str = "relu") -> Training:
    told = Training(folder)
    told.layer("hidden", 10, activation=activation, activation_location=place(20))
    told.layer("head", 11)
    told.graph(
        [
            {"id": 0, "op": "NllLossBackward0", "next": [1]},
            {"id": 1, "op": "AddmmBackward0", "next": [2, 4], "layer": "head", **place(21)},
            {"id": 2, "op": "ReluBackward0", "next": [3], **place(20)},
            {"id": 3, "op": "AddmmBackward0", "next": [5], "layer": "hidden", **place(20)},
            {"id": 4, "op": "AccumulateGrad", "parameter": "head.weight"},
            {"id": 5, "op": "AccumulateGrad", "parameter": "hidden.weight"},
        ]
    )
    return told


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_said_of_an_empty_record(rule: type, tmp_path: Path) -> None:
    assert list(rule().check(Training(tmp_path).record([]))) == []


@pytest.mark.parametrize("rule", RULES)
def test_odd_numbers_raise_nothing(rule: type, tmp_path: Path) -> None:
    told = two_layers(tmp_path)
    told.loss_function()
    for what, subject in (("activation", "hidden"), ("output", "0"), ("target", "0"), ("input", "m#0")):
        told.measure(what, subject, [(NAN, NAN, NAN, math.inf, NAN, NAN, NAN, 0.0)] * 40)
    told.event("non-finite", 3, where="forward")
    told.event("no-gradient", 0, optimizer=None, parameters=["hidden.weight"])
    list(rule().check(told.record([1.0, NAN, math.inf] * 20)))


# dead-units ----------------------------------------------------------------------------------------------------------


def dying(folder: Path, share: float, losses: list[float]) -> Record:
    told = two_layers(folder)
    told.measure("activation", "hidden", [row(a=share if step >= 19 else 0.0) for step in range(40)])
    return told.record(losses)


def test_dead_units_are_named_with_their_layer_and_the_line_of_the_activation(tmp_path: Path) -> None:
    [found] = DeadUnits().check(dying(tmp_path, 0.9, FLAT))
    assert (found.severity, found.layer, found.step) == ("error", "hidden", 0)
    assert found.location is not None and found.location.line == 20


def test_dead_units_of_a_run_that_learns_are_a_note(tmp_path: Path) -> None:
    [found] = DeadUnits().check(dying(tmp_path, 0.9, FALLING))
    assert found.severity == "note"


def test_half_of_the_units_may_be_silent(tmp_path: Path) -> None:
    assert list(DeadUnits().check(dying(tmp_path, 0.55, FLAT))) == []


@pytest.mark.parametrize(("quiet", "named"), [(5, True), (4, False)])
def test_a_layer_that_says_nothing_at_all_is_dead_before_20_batches(tmp_path: Path, quiet: int, named: bool) -> None:
    told = two_layers(tmp_path)
    told.measure("activation", "hidden", [row(low=50.0)] * 6 + [row(low=100.0)] * quiet)
    found = list(DeadUnits().check(told.record(FLAT)))
    assert [(one.severity, one.step) for one in found] == ([("error", 6)] if named else [])


@pytest.mark.parametrize(("std", "line"), [(0.0, 2), (0.1, 20)])
def test_dead_units_whose_biases_were_set_are_blamed_on_that_line(tmp_path: Path, std: float, line: int) -> None:
    script = tmp_path / "train.py"
    script.write_text("layer = nn.Linear(4, 4)\nnn.init.constant_(layer.bias, -3)\n")
    told = two_layers(tmp_path)
    told.out.declare({"type": "process", "rank": 0, "world_size": 1, "main_file": str(script)})
    initial = {"std": std, "rms": 3.0, "amax": 3.0}
    told.out.declare(
        {"type": "parameter", "name": "hidden.bias", "layer": "hidden", "shape": [4], "optimizer": 0,
         "requires_grad": True, "initial": initial}
    )  # fmt: skip
    told.measure("activation", "hidden", [row(a=1.0 if step >= 19 else 0.0) for step in range(40)])
    [found] = DeadUnits().check(told.record(FLAT))
    assert found.location is not None and found.location.line == line


def test_silent_units_of_the_output_are_no_illness(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.layer("head", 11, activation="relu", activation_location=place(20))
    told.measure("activation", "head", [row(a=0.8)] * 40)
    assert list(DeadUnits().check(told.record(FLAT))) == []


# saturated -----------------------------------------------------------------------------------------------------------


def squashed(folder: Path, shares: list[float], losses: list[float]) -> Record:
    told = two_layers(folder, "tanh")
    told.measure("activation", "hidden", [row(high=100 * share) for share in shares])
    return told.record(losses)


def test_saturation_from_the_start_is_an_error_though_the_loss_falls_a_little(tmp_path: Path) -> None:
    slowly = [2.3 - 0.8 * i / len(FALLING) for i in range(len(FALLING))]
    [found] = Saturated().check(squashed(tmp_path, [0.8] * 40, slowly))
    assert found.severity == "error" and found.layer == "hidden"
    assert found.location is not None and found.location.line == 20


def test_a_network_that_learns_well_all_the_same_has_a_note(tmp_path: Path) -> None:
    [found] = Saturated().check(squashed(tmp_path, [0.8] * 40, FALLING))
    assert found.severity == "note"


def test_saturation_that_came_with_learning_is_a_note(tmp_path: Path) -> None:
    [found] = Saturated().check(squashed(tmp_path, [0.02 * step for step in range(40)], FALLING))
    assert found.severity == "note"


def test_a_quarter_of_the_outputs_may_be_saturated(tmp_path: Path) -> None:
    assert list(Saturated().check(squashed(tmp_path, [0.25] * 40, FLAT))) == []


def test_a_gate_may_be_saturated(tmp_path: Path) -> None:
    told = Training(tmp_path)
    for name, activation in (("gate", "sigmoid"), ("value", None), ("head", None)):
        told.layer(name, 10, activation=activation)
    told.graph(
        [
            {"id": 0, "op": "NllLossBackward0", "next": [1]},
            {"id": 1, "op": "AddmmBackward0", "next": [2], "layer": "head"},
            {"id": 2, "op": "MulBackward0", "next": [3, 4]},
            {"id": 3, "op": "SigmoidBackward0", "next": [5]},
            {"id": 4, "op": "AddmmBackward0", "layer": "value"},
            {"id": 5, "op": "AddmmBackward0", "layer": "gate"},
        ]
    )
    told.measure("activation", "gate", [row(high=90.0)] * 40)
    assert list(Saturated().check(told.record(FLAT))) == []


# output-collapse -----------------------------------------------------------------------------------------------------


def collapsed(
    folder: Path, losses: list[float], *, variation: float = 0.001, batch: int = 32, targets: float = 2.0
) -> Record:
    told = two_layers(folder)
    told.loss_function(batch=batch)
    told.measure("output", "0", [row(a=variation)] * 40)
    told.measure("target", "0", [row(0.7 if targets > 1 else 0.0, a=targets, b=1.0)] * 40)
    told.measure("activation", "hidden", [row(a=0.0, b=0.5)] * 40)
    told.measure("activation", "head", [row(b=variation)] * 40)
    return told.record(losses)


def test_the_first_layer_that_does_not_vary_is_named(tmp_path: Path) -> None:
    [found] = OutputCollapse().check(collapsed(tmp_path, FLAT))
    assert (found.severity, found.layer) == ("error", "head")
    assert found.location is not None and found.location.line == 11


@pytest.mark.parametrize(
    "healthy",
    [
        {"losses": FALLING},
        {"losses": FLAT, "variation": 0.1},
        {"losses": FLAT, "batch": 4},
        {"losses": FLAT, "targets": 1.0},
    ],
)
def test_outputs_that_may_be_alike(tmp_path: Path, healthy: dict[str, object]) -> None:
    assert list(OutputCollapse().check(collapsed(tmp_path, **healthy))) == []  # type: ignore[arg-type]


# non-finite-forward --------------------------------------------------------------------------------------------------

LOST = [2.0 - 0.01 * step for step in range(30)] + [NAN] * 30


def test_the_operation_and_its_line_are_named(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.event(
        "non-finite", 30, where="forward", function="log", layer="head", value="inf", inputs_finite=True, **place(33)
    )
    [found] = NonFiniteForward().check(told.record(LOST))
    assert (found.severity, found.step, found.layer) == ("error", 30, "head")
    assert found.location is not None and found.location.line == 33
    assert "clamp" in found.message


def test_a_mask_that_leaves_the_loss_finite_is_a_note(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.event("non-finite", 0, where="forward", function="masked_fill", value="inf", inputs_finite=True, **place(33))
    [found] = NonFiniteForward().check(told.record(FALLING))
    assert found.severity == "note"


def test_without_an_event_the_line_of_backward_is_named(tmp_path: Path) -> None:
    [found] = NonFiniteForward().check(Training(tmp_path).record(LOST))
    assert found.step == 30 and found.location is not None and found.location.line == 90


def test_a_run_that_grew_before_is_said_to_have_diverged(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.event("non-finite", 30, where="loss", function="mse_loss", value="inf", inputs_finite=True, **place(33))
    [found] = NonFiniteForward().check(told.record([3.0**step for step in range(30)] + [math.inf] * 10))
    assert "learning rate" in found.message


def test_a_loss_that_was_never_a_number_may_be_a_vector(tmp_path: Path) -> None:
    assert list(NonFiniteForward().check(Training(tmp_path).record([NAN] * 40))) == []


def test_a_gradient_that_went_bad_is_another_rule(tmp_path: Path) -> None:
    told = Training(tmp_path)
    told.event("non-finite", 29, where="gradient", parameter="head.weight")
    assert list(NonFiniteForward().check(told.record(LOST))) == []


# unused-module -------------------------------------------------------------------------------------------------------


def never_called(folder: Path, losses: list[float], **given: Any) -> Record:
    """The layer `spare` was never called, and its parameters have no gradient."""
    told = two_layers(folder)
    told.layer("spare", 30, **{"order": -1, **given})
    told.event("no-gradient", 0, optimizer=0, parameters=["spare.weight", "spare.bias"], total=6)
    return told.record(losses)


def test_a_layer_that_forward_never_calls(tmp_path: Path) -> None:
    [found] = UnusedModule().check(never_called(tmp_path, FLAT))
    assert (found.severity, found.layer, found.evidence["parameters"]) == ("error", "spare", 20)
    assert found.location is not None and found.location.line == 30


def test_a_layer_too_many_in_a_model_that_learns_is_a_note(tmp_path: Path) -> None:
    [found] = UnusedModule().check(never_called(tmp_path, FALLING))
    assert found.severity == "note"


@pytest.mark.parametrize(
    ("losses", "given"),
    [
        (FLAT, {"order": 2}),  # it ran, perhaps without gradient
        (FLAT, {"root": "other"}),  # of a model that is not trained
        (FLAT[:49], {}),
    ],
)
def test_layers_that_are_not_called_unused(tmp_path: Path, losses: list[float], given: dict[str, Any]) -> None:
    assert list(UnusedModule().check(never_called(tmp_path, losses, **given))) == []


def test_a_layer_that_shares_its_weight_with_one_that_is_called_is_used(tmp_path: Path) -> None:
    told = two_layers(tmp_path)
    told.out.declare({"type": "layer", "name": "tied", "kind": "linear", "parameters": ["hidden.weight"]})
    told.event("no-gradient", 0, optimizer=0, parameters=["hidden.weight"], total=6)
    assert list(UnusedModule().check(told.record(FLAT))) == []


def test_a_layer_that_was_made_anew_under_the_name_of_one_that_ran(tmp_path: Path) -> None:
    told = two_layers(tmp_path)
    told.layer("spare", 30, order=-1)
    told.measure("activation", "spare", [row()] * 20)
    told.event("no-gradient", 0, optimizer=0, parameters=["spare.weight", "spare.bias"], total=6)
    assert list(UnusedModule().check(told.record(FLAT))) == []


def test_a_layer_whose_weight_is_given_to_a_function_is_used(tmp_path: Path) -> None:
    told = two_layers(tmp_path)
    told.layer("spare", 30, order=-1)
    told.event("no-gradient", 0, optimizer=0, parameters=["spare.bias"], total=6)
    assert list(UnusedModule().check(told.record(FLAT))) == []


# rank-collapse, activation-growth ------------------------------------------------------------------------------------


def layered(folder: Path, variations: list[list[float]], losses: list[float], rms: float = 1.0) -> Record:
    """Layers in a chain, each with its batch variation at every step."""
    told = Training(folder)
    for number, course in enumerate(variations):
        told.layer(f"l{number}", 10 + number)
        told.measure("activation", f"l{number}", [row(rms, b=b) for b in course])
    return told.record(losses)


VARIED, ALIKE = [0.5] * 20, [1e-4] * 20


@pytest.mark.parametrize(
    ("variations", "losses", "named"),
    [
        ([VARIED, ALIKE, ALIKE, VARIED], FLAT, "l1"),
        ([VARIED, ALIKE, ALIKE, VARIED], FALLING, None),
        ([VARIED, ALIKE, ALIKE, VARIED], FLAT[:40], None),  # too short
        ([ALIKE, ALIKE, ALIKE, VARIED], FLAT, None),  # what goes in is the same already
        ([VARIED, VARIED, VARIED, ALIKE], FLAT, None),  # the answer: output-collapse
        ([VARIED, [1e-4] * 19 + [0.5], VARIED, VARIED], FLAT, None),  # no longer so at the end
        ([VARIED, [1e-4] * 4, VARIED, VARIED], FLAT, None),  # hardly measured
    ],
)
def test_features_that_are_alike(
    tmp_path: Path, variations: list[list[float]], losses: list[float], named: str | None
) -> None:
    found = list(RankCollapse().check(layered(tmp_path, variations, losses)))
    assert [one.layer for one in found] == ([named] if named else [])
    assert all(one.from_start and one.evidence["layers"] == 2 for one in found)


def test_features_that_become_alike_do_so_at_a_step(tmp_path: Path) -> None:
    [found] = RankCollapse().check(layered(tmp_path, [VARIED, [0.5] * 8 + [1e-4] * 12, VARIED, VARIED], FLAT))
    assert found.step == 8 and not found.from_start


def test_a_dead_layer_is_left_to_dead_units(tmp_path: Path) -> None:
    assert list(RankCollapse().check(layered(tmp_path, [VARIED, ALIKE, VARIED, VARIED], FLAT, rms=0.0))) == []


RISING = [2.0 * 1.1**step for step in range(80)]


@pytest.mark.parametrize(
    ("sizes", "losses", "named"),
    [
        ([1.0] * 40 + [100.0] * 40, RISING, "l1"),
        ([1.0] * 40 + [100.0] * 40, FALLING, None),
        ([1.0] * 40 + [20.0] * 40, RISING, None),  # healthy runs grow as much
        ([1.0] * 40 + [100.0] * 38 + [1.0] * 2, RISING, None),  # come down again
        ([0.01] * 5 + [1.0] * 75, RISING, None),  # the warm-up
        ([1.0] * 40 + [100.0] * 30 + [math.inf] * 10, [*RISING[:70], *[NAN] * 10], "l1"),
        ([1.0] * 15, RISING, None),
    ],
)
def test_activations_that_grow(tmp_path: Path, sizes: list[float], losses: list[float], named: str | None) -> None:
    told = Training(tmp_path)
    for number, course in enumerate(([1.0] * 80, sizes, sizes)):  # the last one is the head
        told.layer(f"l{number}", 10 + number)
        told.measure("activation", f"l{number}", [row(rms) for rms in course])
    found = list(ActivationGrowth().check(told.record(losses)))
    assert [(one.layer, one.step) for one in found] == ([(named, 40)] if named else [])
