"""Rules of the forward pass, on small records that were written by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_training import FALLING, FLAT, NAN, Training, place, row

from wellfit.probe import frames
from wellfit.record import Record
from wellfit.rules.forward.dead_units import DeadUnits
from wellfit.rules.forward.detached import Detached
from wellfit.rules.forward.non_finite_forward import NonFiniteForward
from wellfit.rules.forward.output_collapse import OutputCollapse
from wellfit.rules.forward.saturated import Saturated
from wellfit.rules.forward.unused_module import UnusedModule

RULES = [DeadUnits, Detached, NonFiniteForward, OutputCollapse, Saturated, UnusedModule]


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


# detached ------------------------------------------------------------------------------------------------------------


def cut_off(folder: Path, *, missing: bool = True, cut: bool = True, ran: bool = True) -> Training:
    told = Training(folder)
    told.layer("encoder", 10)
    told.layer("head", 11)
    nodes = [
        {"id": 0, "op": "NllLossBackward0", "next": [1]},
        {"id": 1, "op": "AddmmBackward0", "next": [2], "layer": "head", **place(21)},
        {"id": 2, "op": "AccumulateGrad", "parameter": "head.weight"},
    ]
    told.graph(nodes, [{"function": "detach", "layer": "encoder", **place(20)}] if cut else [])
    if missing:
        told.event("no-gradient", 0, optimizer=0, parameters=["encoder.weight", "encoder.bias"], total=4)
    if ran:
        told.measure("activation", "encoder", [row()] * 20)
    return told


def test_the_line_of_the_cut_is_named(tmp_path: Path) -> None:
    [found] = Detached().check(cut_off(tmp_path).record(FALLING))
    assert (found.severity, found.layer) == ("error", "encoder")
    assert found.location is not None and found.location.line == 20


def test_without_a_cut_it_is_a_note_while_the_run_learns(tmp_path: Path) -> None:
    [found] = Detached().check(cut_off(tmp_path, cut=False).record(FALLING))
    assert found.severity == "note"


def test_parameters_with_gradient_from_elsewhere_are_well(tmp_path: Path) -> None:
    assert list(Detached().check(cut_off(tmp_path, missing=False).record(FALLING))) == []


def test_a_layer_that_another_loss_reaches_is_well(tmp_path: Path) -> None:
    told = cut_off(tmp_path)
    told.graph([{"id": 0, "next": [1]}, {"id": 1, "op": "AccumulateGrad", "parameter": "encoder.weight"}])
    assert list(Detached().check(told.record(FALLING))) == []


def test_a_teacher_under_no_grad_is_well(tmp_path: Path) -> None:
    assert list(Detached().check(cut_off(tmp_path, ran=False).record(FALLING))) == []


def starved(folder: Path, *, missing: int = 4, unknown: int = 0) -> Training:
    """No parameter has a gradient: backward is called on a new tensor, or on a graph that ends at one."""
    told = Training(folder)
    told.layer("encoder", 10)
    told.layer("head", 11)
    told.out.declare({"type": "optimizer", "id": 0, "class": "SGD", "unknown_parameters": unknown})
    names = ["encoder.weight", "encoder.bias", "head.weight", "head.bias"]
    for name in names:
        told.out.declare({"type": "parameter", "name": name, "requires_grad": True, "optimizer": 0, "shape": [4]})
    told.event("no-gradient", 0, optimizer=0, parameters=names[:missing], count=missing, total=4)
    return told


def new_loss(told: Training, times: int) -> Training:
    for count in range(1, times + 1):
        told.event("leaf-loss", count, backward=0, count=count, location=place(31), cuts=[place(29)])
    return told


def test_a_loss_that_was_made_anew(tmp_path: Path) -> None:
    [found] = Detached().check(new_loss(starved(tmp_path), 3).record(FLAT))
    assert found.severity == "error" and found.evidence == {"parameters": 4, "cut_at_line": 29}
    assert found.location is not None and found.location.line == 31


@pytest.mark.parametrize(
    ("times", "options"),
    [
        (2, {}),  # a batch without anything to learn from
        (3, {"missing": 3}),
        (3, {"unknown": 1}),  # a tensor of no module is optimised
    ],
)
def test_a_new_loss_now_and_then_is_well(tmp_path: Path, times: int, options: dict[str, int]) -> None:
    assert list(Detached().check(new_loss(starved(tmp_path, **options), times).record(FLAT))) == []


@pytest.mark.parametrize(
    ("made", "line"), [("loss = Variable(loss.data, requires_grad=True)", 2), ("loss.requires_grad = True", 2), ("", 3)]
)
def test_the_source_shows_where_the_loss_was_made_anew(tmp_path: Path, made: str, line: int) -> None:
    file = tmp_path / "train.py"
    file.write_text(f"loss = error(model(x).numpy())\n{made}\nloss.backward()\n")
    told = starved(tmp_path)
    told.out.declare({"type": "backward", "id": 0, "location": {"file": str(file), "line": 3}})
    for count in (1, 2, 3):
        told.event("leaf-loss", count, backward=0, count=count)
    [found] = Detached().check(told.record(FLAT))
    assert found.location is not None and found.location.line == line


@pytest.mark.parametrize(("parameter", "lines"), [(None, [24]), ("head.weight", [])])
def test_a_graph_that_ends_at_a_new_tensor(tmp_path: Path, parameter: str | None, lines: list[int]) -> None:
    told = starved(tmp_path)
    nodes = [
        {"id": 0, "op": "MseLossBackward0", "next": [1]},
        {"id": 1, "op": "AccumulateGrad", "parameter": parameter, "shape": [8, 1], **place(24)},
    ]
    told.graph(nodes)
    found = list(Detached().check(told.record(FLAT)))
    assert [one.location.line for one in found if one.location is not None] == lines


def never_in_a_graph(folder: Path, rms: float = 0.29, twin: bool = False) -> Training:
    """`encoder.a` ran under no_grad only; torch makes weights of 4 inputs with an rms of 0.29."""
    told = cut_off(folder, ran=False, cut=False)
    told.layer("encoder.a", 12, order=0)
    told.layer("head", 11, order=5)
    fresh = {"std": rms, "rms": rms, "amax": 0.499}
    weight = {"shape": [40, 4], "initial": fresh, "fan_in": 4, "optimizer": 0, "requires_grad": True}
    told.out.declare({"type": "parameter", "name": "encoder.a.weight", "layer": "encoder.a", **weight})
    told.event("no-gradient", 0, optimizer=0, parameters=["encoder.a.weight", "encoder.a.bias"], total=4)
    if twin:
        told.layer("online.a", 13, order=6)
        told.out.declare({"type": "parameter", "name": "online.a.weight", "layer": "online.a", **weight})
        told.graph([{"id": 0, "next": [1]}, {"id": 1, "op": "AccumulateGrad", "parameter": "online.a.weight"}])
    return told


def test_what_ran_without_gradient_and_ended_random_is_ill(tmp_path: Path) -> None:
    told = never_in_a_graph(tmp_path).record(FALLING)
    [found] = Detached().check(told)
    assert (found.severity, found.layer) == ("error", "encoder.a")
    told.finished = False
    assert list(Detached().check(told)) == []


def test_loaded_weights_and_copies_without_gradient_are_well(tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {"loaded": {"rms": 0.1}, "copied": {"twin": True}}
    for name, given in cases.items():
        (tmp_path / name).mkdir()
        assert list(Detached().check(never_in_a_graph(tmp_path / name, **given).record(FALLING))) == []


GAN = """\
for step in range(10):
    fake = g(noise)
    loss = d(real) + d(fake.detach())
    loss.backward()
    optimizer_d.step()
    loss = d(fake{cut})
    loss.backward()
    optimizer_g.step()
"""


@pytest.mark.parametrize(("cut", "line"), [(".detach()", 6), ("", 3)])
def test_of_two_players_the_cut_of_the_own_step_is_named(tmp_path: Path, cut: str, line: int) -> None:
    script = tmp_path / "gan.py"
    script.write_text(GAN.format(cut=cut))
    told = Training(tmp_path)
    for id, at in ((0, 4), (1, 7)):
        told.out.declare({"type": "backward", "id": id, "location": {"file": str(script), "line": at}})
    told.layer("g", 1)
    told.layer("d", 1)
    for name in ("g.weight", "g.bias"):
        told.out.declare({"type": "parameter", "name": name, "layer": "g", "shape": [4, 4], "optimizer": 1})
    told.measure("activation", "g", [row()] * 20)
    nodes = [{"id": 0, "next": [1]}, {"id": 1, "op": "AccumulateGrad", "parameter": "d.weight"}]
    cuts = [{"function": "detach", "layer": "g", "file": str(script), "line": 3}]
    for site in (0, 1):
        graph = {"step": site, "backward": site, "nodes": nodes, "cuts": [] if site else cuts}
        told.out.declare({"type": "graph", **graph})
    told.event("no-gradient", 1, optimizer=1, parameters=["g.weight", "g.bias"], total=2)
    for step in range(1, 20, 2):
        told.out.row(frames.ROW_STEP, 1, 0, step, 0.0, 0.0)
    [found] = Detached().check(told.record(FALLING))
    assert found.location is not None and found.location.line == line


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
