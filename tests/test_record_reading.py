"""Declarations and curves: what rules ask of a record."""

from __future__ import annotations

import math
import os
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfit.finding import Location
from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Curve, Record, open_run
from wellfit.record.writing import write_json

BIG = 1 << 40


def writer(folder: Path, segment_bytes: int = 16 << 20, quota: int = BIG) -> Writer:
    return Writer(str(folder), 0, os.getpid(), quota, segment_bytes)


def only(folder: Path) -> Record:
    run = open_run(folder)
    assert run.damage == []
    assert len(run.records) == 1
    return run.records[0]


# Declarations ------------------------------------------------------------------------------------------------------


def test_declarations_become_dataclasses(tmp_path: Path) -> None:
    here = {"file": "/a.py", "line": 3}
    out = writer(tmp_path)
    for declaration in (
        {"type": "process", "rank": 0, "torch": "2.13"},
        {"type": "layer", "name": "late", "class": "Linear", "kind": "linear", "location": here, "order": 2},
        {"type": "layer", "name": "never", "order": -1},
        {"type": "layer", "name": "net", "order": 0, "root": "net", "attributes": {"p": 0.5}, "new_field": 1},
        {"type": "parameter", "name": "w", "shape": [2, 3], "initial": {"std": 0.5}, "optimizer": 0, "location": here},
        {"type": "optimizer", "id": 0, "class": "SGD", "groups": [{"lr": 0.1}], "parameters": ["w"]},
        {"type": "optimizer", "id": 0, "class": "Adam"},
        {"type": "scheduler", "id": 0, "class": "StepLR", "optimizer": 0},
        {"type": "loader", "id": 1, "batch_size": None, "shuffle": True},
        {"type": "loss", "id": 2, "function": "mse_loss", "prediction_shape": [4, 1], "target_shape": [4]},
        {"type": "backward", "id": 5, "location": here},
        {"type": "pattern", "id": 1, "events": ["backward", "step:0"]},
        {"type": "event", "event": "non-finite", "step": 4, "where": "forward", "layer": "late"},
        {"type": "cost", "watched": 5},
        {"type": "unseen", "what": "compiled"},
        {"type": "from the future", "x": 1},
    ):
        out.declare(declaration)
    out.close()
    record = only(tmp_path)
    assert list(record.layers) == ["net", "late", "never"]
    assert record.layers["late"].location == Location("/a.py", 3)
    assert record.layers["late"].class_name == "Linear"
    assert record.layers["net"].is_root
    assert not record.layers["late"].is_root
    assert record.layers["net"].attributes == {"p": 0.5}
    assert record.parameters["w"].shape == (2, 3)
    assert record.parameters["w"].size == 6
    assert record.parameters["w"].initial.std == 0.5
    assert math.isnan(record.parameters["w"].initial.rms)
    assert record.optimizers[0].class_name == "Adam"
    assert record.schedulers[0].optimizer == 0
    assert record.loaders[1].batch_size is None
    assert record.loaders[1].shuffle is True
    assert record.losses[2].target_shape == (4,)
    assert record.backward_sites[5].location == Location("/a.py", 3)
    assert record.patterns == {1: ("backward", "step:0")}
    assert record.events("non-finite")[0]["inputs_finite"] is None
    assert record.cost["watched"] == 5
    assert record.cost["probe_seconds"] == 0
    assert record.unseen[0]["why"] == ""
    assert record.process["torch"] == "2.13"


@pytest.mark.parametrize(
    "declaration",
    [
        {"type": "layer"},
        {"type": "layer", "name": 3},
        {"type": "layer", "name": "a", "parameters": "w"},
        {"type": "parameter", "name": "a", "shape": ["x"]},
        {"type": "optimizer", "id": None},
        {"type": "schema", "id": 1, "series": [["a"]]},
        {"type": "schema", "id": 1, "series": 5},
        {"type": "event"},
        {"type": "event", "event": "no-gradient", "parameters": 5},
        {"type": "graph", "nodes": [{"id": "x"}]},
        {"type": 5},
        {"type": "pattern", "events": []},
    ],
)
def test_malformed_declarations_are_left_out_with_a_sentence(tmp_path: Path, declaration: dict[str, object]) -> None:
    out = writer(tmp_path)
    out.declare(declaration)
    out.declare({"type": "layer", "name": "good"})
    out.close()
    run = open_run(tmp_path)
    assert list(run.records[0].layers) == ["good"]
    assert len(run.damage) == 1
    assert run.records[0].graphs == []
    assert run.records[0].events() == []


def test_graph(tmp_path: Path) -> None:
    nodes = [
        {"id": 0, "op": "NllLossBackward0", "next": [1], "file": "/a.py", "line": 1},
        {"id": 1, "op": "AddmmBackward0", "next": [2, 3, 77], "layer": "head"},
        {"id": 2, "op": "AccumulateGrad", "parameter": "head.weight"},
        {"id": 3, "op": "ReluBackward0", "next": [4], "layer": "body", "shape": [4, 2]},
        {"id": 4, "op": "AddmmBackward0", "next": [4], "layer": "body"},
        {"id": 5, "op": "AccumulateGrad", "parameter": "not.reached"},
    ]
    out = writer(tmp_path)
    out.declare({"type": "graph", "step": 2, "backward": 1, "nodes": nodes, "cuts": [{"function": "detach"}]})
    out.declare({"type": "graph"})
    out.close()
    graph, empty = only(tmp_path).graphs
    assert [node.id for node in graph.path_to("body")] == [0, 1, 3]
    assert graph.path_to("absent") == []
    assert [node.id for node in graph.consumers(3)] == [1]
    assert [node.id for node in graph.inputs(1)] == [2, 3]
    assert graph.parameters() == {"head.weight"}
    assert graph.layers() == ["head", "body"]
    assert graph.nodes[0].location == Location("/a.py", 1)
    assert graph.cuts[0].function == "detach"
    assert empty.loss is None
    assert empty.path_to("x") == []
    assert empty.parameters() == set()


# Curves ------------------------------------------------------------------------------------------------------------


def test_curves_from_rows(tmp_path: Path) -> None:
    out = writer(tmp_path)
    out.declare({"type": "hyper", "id": 0, "optimizer": 0, "group": 0, "name": "lr"})
    out.declare({"type": "hyper", "id": 0, "optimizer": 1, "group": 0, "name": "lr"})
    out.row(frames.ROW_HYPER, 0, 0, 0, 0.1, 0)
    out.row(frames.ROW_HYPER, 1, 0, 0, 0.7, 0)
    for step in range(10):
        for part in range(2):
            out.row(frames.ROW_BACKWARD, 0, 4, step, step + part, step)
        if step == 3:
            out.row(frames.ROW_BACKWARD, 0, 9, step, -1.0, step)
        out.row(frames.ROW_STEP, 0, 0, step, step, 0)
        if step == 5:
            out.row(frames.ROW_HYPER, 0, 0, 6, 0.01, 0)
            for batch in range(3):
                out.row(frames.ROW_EVALUATION, 0, 2, 6, batch, 5.5)
    for batch in range(4):
        out.row(frames.ROW_EVALUATION, 1, 2, 10, 2 * batch, 10)
    out.row(frames.ROW_EVALUATION, 1, 3, 10, 50, 10)
    out.close()
    record = only(tmp_path)
    assert record.loss_sites() == [4, 9]
    assert record.loss().value.tolist() == [step + 0.5 for step in range(10)]
    assert record.loss(9).step.tolist() == [3]
    assert len(record.loss(77)) == 0
    assert record.hyper().step.tolist() == [0, 6]
    assert record.hyper().at([0, 5, 6, 9]).tolist() == [0.1, 0.1, 0.01, 0.01]
    assert record.hyper("lr", optimizer=1).value.tolist() == [0.7]
    assert len(record.hyper("momentum")) == 0
    passes = record.evaluations()
    assert passes.step.tolist() == [6, 10]
    assert passes.value.tolist() == [1.0, 3.0]
    assert record.evaluation_modes().tolist() == [False, True]
    assert record.evaluations(3).value.tolist() == [50.0]
    assert record.step_count == 10


def test_an_empty_record_answers_everything_with_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"ended": 5.0})
    (tmp_path / "r0-1-0000.wfr").write_bytes(b"")
    record = only(tmp_path)
    assert record.finished
    assert record.step_count == 0
    for curve in (
        record.loss(),
        record.hyper(),
        record.evaluations(),
        record.loss().smoothed(5),
        record.training_losses(0),
    ):
        assert len(curve) == 0
    assert len(record.evaluation_modes()) == 0
    assert len(record.watched_steps) == 0
    series = record.series("gradient", "w")
    assert len(series) == len(series.std) == len(series.low_share) == 0
    assert record.subjects("gradient") == []
    assert record.cost["steps"] == 0
    assert (record.events(), record.unseen, record.graphs) == ([], [], [])


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=60), st.integers(1, 12))
def test_running_median_is_the_slow_one(values: list[float], window: int) -> None:
    curve = Curve(np.arange(len(values)), np.array(values, np.float64)).smoothed(window)
    for index in range(len(values)):
        part = [value for value in values[max(0, index - window + 1) : index + 1] if not math.isnan(value)]
        if part:
            assert curve.value[index] == pytest.approx(np.median(part), abs=1e-9)
        else:
            assert math.isnan(curve.value[index])


def test_series_derive_std_and_shares(tmp_path: Path) -> None:
    out = writer(tmp_path)
    id = out.series("activation", "relu")
    out.statistics(0, [(id, 4, 3, 5, 9, 1, 2, 0.5, 0.25)])
    out.statistics(1, [(id, 0, math.nan, math.inf, 9, 1, 2, 0.5, 0.25)])
    out.close()
    series = only(tmp_path).series("activation", "relu")
    assert series.std[0] == 4
    assert series.low_share[0] == 0.25
    assert series.high_share[0] == 0.5
    assert math.isnan(series.low_share[1])
    with pytest.raises(ValueError):
        series.data[0, 0] = 1


def test_one_series_among_many(tmp_path: Path) -> None:
    out = writer(tmp_path, segment_bytes=1 << 20)
    ids = tuple(out.series("gradient", f"p{number}") for number in range(400))
    numbers = array("f", [float(number // 8) for number in range(8 * 400)])
    for step in range(500):
        numbers[8 * 333 + 2] = step
        out.statistics(step, (ids, numbers))
        out.tick(step + 1, 0.0)
    out.close()
    record = only(tmp_path)
    assert record.series("gradient", "p333").rms.tolist() == list(range(500))
    assert (record.series("gradient", "p399").mean == 399).all()
    assert record.subjects("gradient") == [f"p{number}" for number in range(400)]
