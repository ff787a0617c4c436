"""The rule on layers that are cut off from the loss, on small records written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_training import FALLING, FLAT, Training, place, row

from wellfit.probe import frames
from wellfit.rules.forward.dead_units import DeadUnits
from wellfit.rules.forward.detached import Detached
from wellfit.rules.forward.non_finite_forward import NonFiniteForward
from wellfit.rules.forward.output_collapse import OutputCollapse
from wellfit.rules.forward.saturated import Saturated
from wellfit.rules.forward.unused_module import UnusedModule

RULES = [DeadUnits, Detached, NonFiniteForward, OutputCollapse, Saturated, UnusedModule]


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


def test_a_tied_head_does_not_hide_what_lies_before_it(tmp_path: Path) -> None:
    """The embedding's weight is that of the head: its gradient comes from there."""
    told = Training(tmp_path)
    shared = {"type": "layer", "name": "embedding", "class": "Embedding", "kind": "embedding", "order": 0}
    told.out.declare({**shared, "location": place(9), "parameters": ["head.weight"]})
    told.order = 1
    told.layer("encoder", 10)
    told.layer("head", 11)
    nodes = [{"id": 0, "next": [1]}, {"id": 1, "op": "AccumulateGrad", "parameter": "head.weight"}]
    told.graph(nodes)
    told.event("no-gradient", 0, optimizer=0, parameters=["encoder.weight", "encoder.bias"], total=4)
    told.measure("activation", "encoder", [row()] * 20)
    [found] = Detached().check(told.record(FLAT))
    assert (found.severity, found.layer) == ("error", "encoder")


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
