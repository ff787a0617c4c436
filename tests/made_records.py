"""Records for the tests, and the questions that a rule may ask of them."""

from __future__ import annotations

from array import array
from pathlib import Path

from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Run


def write_run(
    folder: Path, steps: int = 60, series: int = 70, segment_bytes: int = 30_000, quota: int = 1 << 40
) -> None:
    out = Writer(str(folder), 0, 7, quota, segment_bytes)
    fill(out, steps, series)
    out.close()


def fill(out: Writer, steps: int, series: int) -> None:
    out.declare({"type": "process", "rank": 0, "world_size": 1})
    out.declare({"type": "layer", "name": "a", "order": 0, "parameters": ["w"]})
    out.declare({"type": "graph", "nodes": [{"id": 0, "next": [1]}, {"id": 1, "parameter": "w"}]})
    out.declare({"type": "hyper", "id": 0, "optimizer": 0, "group": 0, "name": "lr"})
    ids = tuple(out.series("gradient", str(number)) for number in range(series))
    for step in range(steps):
        out.row(frames.ROW_HYPER, 0, 0, step, 0.1, 0)
        out.row(frames.ROW_BACKWARD, 0, 0, step, float(step), 0.0)
        out.row(frames.ROW_EVALUATION, 0, 0, step, 1.0, 0.0)
        out.statistics(step, (ids, array("f", [step] * 8 * series)))
        out.row(frames.ROW_STEP, 0, 0, step, 0.0, 0.0)
        if step % 5 == 4:
            out.declare({"type": "event", "event": "epoch", "step": step})
            out.flush()


def ask_everything(run: Run) -> None:
    """Whatever a rule may ask of a record; that it does not raise is the test."""
    assert all(isinstance(sentence, str) for sentence in run.damage)
    for record in run.records:
        for name in ("process", "layers", "parameters", "optimizers", "schedulers", "loaders", "losses", "patterns"):
            assert isinstance(getattr(record, name), dict)
        record.loss().smoothed(5).window(3)
        record.hyper().at([1, 2])
        record.evaluations()
        record.evaluation_modes()
        assert record.step_count >= 0
        for event in record.events():
            assert isinstance(event["event"], str) and isinstance(event["step"], int)
        for what in ("gradient", "update"):
            for subject in record.subjects(what)[:3] + record.subjects(what)[-3:]:
                series = record.series(what, subject)
                assert series.data.shape == (len(series.step), 8)
                assert len(series.std) == len(series)
        for graph in record.graphs:
            graph.path_to("a")
            graph.parameters()
        assert len(record.watched_steps) >= 0
    assert all(isinstance(sentence, str) for sentence in run.damage)
