"""The record comes back as it was written, also while it is being written."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfit.probe import frames
from wellfit.probe.writer import STEPS_AT_RISK, Writer
from wellfit.record import Record, open_run

BIG = 1 << 40


def writer(folder: Path, segment_bytes: int = 16 << 20, quota: int = BIG) -> Writer:
    return Writer(str(folder), 0, os.getpid(), quota, segment_bytes)


def only(folder: Path) -> Record:
    run = open_run(folder)
    assert run.damage == []
    assert len(run.records) == 1
    return run.records[0]


# Bytes -------------------------------------------------------------------------------------------------------------


def test_header_is_laid_out_as_documented() -> None:
    data = frames.frame(frames.JSON, 7, b"{}", frames.THINNED)
    assert len(data) == 26
    assert data[:8] == b"WFIT\x01\x01\x01\x00"
    assert data[8:16] == b"\x02\0\0\0\x07\0\0\0"
    assert frames.parse_header(data) == (1, 1, 1, 2, 7, int.from_bytes(data[16:20], "little"))
    assert frames.parse_header(data[:5] + b"\x02" + data[6:]) is None


@given(st.integers(0, 300))
def test_statistics_frame_is_as_long_as_it_says(series: int) -> None:
    data = frames.statistics_frame(3, 1, array("f", [1.0] * 8 * series))
    assert len(data) == frames.HEADER_SIZE + frames.statistics_length(series)
    if series:
        offset, size, members = frames.block_place(series, (series - 1) // 64)
        assert offset + size == len(data)
        assert members == (series - 1) % 64 + 1


# Round trip --------------------------------------------------------------------------------------------------------

eight = st.lists(st.floats(width=32), min_size=8, max_size=8).filter(lambda row: not all(map(math.isnan, row)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), eight), max_size=40),
    st.lists(
        st.tuples(st.sampled_from(b"BSHEL"), st.integers(0, 255), st.integers(0, 65535), st.floats()), max_size=40
    ),
    st.lists(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), max_size=5),
    st.integers(100, 3000),
)
def test_round_trip(statistics, rows, objects, segment_bytes) -> None:  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as name:
        out = writer(Path(name), segment_bytes)
        first, second = out.series("gradient", "w\ud800"), out.series("gradient", "b")
        for event in objects:
            out.declare({**event, "type": "event", "event": "other", "step": 3})
        for step, (both, numbers) in enumerate(statistics):
            out.statistics(step, [(first, *numbers), (second, *numbers[::-1])] if both else [(second, *numbers[::-1])])
            if step % 3 == 0:
                out.flush()
        for step, (kind, a, b, x) in enumerate(rows):
            out.row(kind, a, b, step, x, -x)
        out.flush()
        out.close()
        if not (statistics or rows or objects):
            assert os.listdir(name) == []
            return
        record = only(Path(name))
        kept = {"type": "event", "event": "other", "step": 3}
        assert record.events() == [{**event, **kept} for event in objects]
        assert len(record.events("other")) == len(objects)
        both_steps = [step for step, (both, _) in enumerate(statistics) if both]
        series = record.series("gradient", "w\ud800")
        assert series.step.tolist() == both_steps
        expected = np.array([statistics[step][1] for step in both_steps], np.float32).reshape(-1, 8)
        np.testing.assert_array_equal(series.data, expected)
        other = record.series("gradient", "b")
        assert other.step.tolist() == list(range(len(statistics)))
        np.testing.assert_array_equal(other.data, np.array([n[::-1] for _, n in statistics], np.float32).reshape(-1, 8))
        for kind in b"BSHEL":
            read = record._rows.of(kind)
            np.testing.assert_array_equal(read["x"], [x for k, _, _, x in rows if k == kind])
            assert read["a"].tolist() == [a for k, a, _, _ in rows if k == kind]
            assert read["b"].tolist() == [b for k, _, b, _ in rows if k == kind]


def test_numbers_that_do_not_fit_are_held_at_the_limit(tmp_path: Path) -> None:
    out = writer(tmp_path)
    id = out.series("gradient", "w")
    out.statistics(0, [(id, 1e300, -1e300, 10**400, float("nan"), 0, 1, 2, 3)])
    out.statistics(1, ((id,), array("d", [1e300] * 8)))
    out.row(frames.ROW_BACKWARD, 0, 70_000, 1 << 40, 10**400, 0.0)
    out.row(frames.ROW_BACKWARD, 300, 1, -5, 1.0, 0.0)
    out.close()
    record = only(tmp_path)
    data = record.series("gradient", "w").data
    assert data[0, :3].tolist() == [math.inf, -math.inf, math.inf]
    assert math.isnan(data[0, 3])
    assert data[0, 4:].tolist() == [0, 1, 2, 3]
    assert data[1].tolist() == [math.inf] * 8
    rows = record._rows.of(frames.ROW_BACKWARD)
    assert rows["b"].tolist() == [65535, 1]
    assert rows["step"].tolist() == [frames.STEP_LIMIT, 0]
    assert rows["x"].tolist() == [math.inf, 1.0]


def test_what_cannot_be_encoded_is_counted_and_does_not_raise(tmp_path: Path) -> None:
    class Rude:
        def __str__(self) -> str:
            raise RuntimeError

    out = writer(tmp_path)
    out.declare({"type": "event", "event": "x", "rude": Rude()})
    out.statistics(0, [(0, 1.0)])
    out.statistics(0, [(99, *[1.0] * 8)])
    out.statistics(0, [("a", *[1.0] * 8)])  # type: ignore[arg-type]
    out.row(1, 2, 3, 4, "x", None)  # type: ignore[arg-type]
    out.close()
    assert only(tmp_path).unseen[0]["why"].startswith("5 ")


def test_segments_roll_and_each_declares_its_schemas(tmp_path: Path) -> None:
    out = writer(tmp_path, segment_bytes=5000)
    ids = tuple(out.series("update", str(number)) for number in range(70))
    for step in range(20):
        out.statistics(step, (ids, array("f", [step] * 8 * 70)))
        out.flush()
    out.close()
    files = sorted(os.listdir(tmp_path))
    assert files[0] == f"r0-{os.getpid()}-0000.wfr"
    assert len(files) >= 10
    assert only(tmp_path).series("update", "69").step.tolist() == list(range(20))
    os.unlink(tmp_path / files[0])
    left = open_run(tmp_path).records[0].series("update", "69").step
    assert len(left) >= 15
    assert left[-1] == 19


def test_an_earlier_process_with_our_number_keeps_its_file(tmp_path: Path) -> None:
    for text in ("one", "two"):
        out = writer(tmp_path)
        out.declare({"type": "unseen", "what": text, "why": ""})
        out.close()
    assert [unseen["what"] for unseen in only(tmp_path).unseen] == ["one", "two"]


def test_a_fork_writes_nothing(tmp_path: Path) -> None:
    out = writer(tmp_path)
    out.declare({"type": "unseen", "what": "parent", "why": ""})
    child = os.fork()
    if child == 0:
        out.tick(1, 0.0)
        out.close()
        os._exit(0 if out.broken and "fork" in out.broken else 1)
    assert os.waitpid(child, 0)[1] == 0
    out.close()
    assert len(only(tmp_path).unseen) == 1


# While it is written -----------------------------------------------------------------------------------------------


def test_reading_while_writing(tmp_path: Path) -> None:
    out = writer(tmp_path, segment_bytes=30_000)
    ids = [out.series("gradient", str(number)) for number in range(100)]
    run = None
    held = None
    for step in range(300):
        out.row(frames.ROW_BACKWARD, 0, 0, step, float(step), 0.1 * step)
        if step % 2 == 0:
            wanted = ids if step < 200 else ids[50:]
            out.statistics(step, [(id, *[float(step * 100 + id)] * 8) for id in wanted])
        out.row(frames.ROW_STEP, 0, 0, step, 0.1 * step, 0.0)
        if step % 7 == 0:
            out.flush()
            if run is None:
                run = open_run(tmp_path)
            assert run.refresh() == (step > 0)
            assert not run.refresh()
            record = run.records[0]
            assert record.step_count == step + 1
            series = record.series("gradient", "77")
            assert series.step.tolist() == list(range(0, step + 1, 2))
            assert (series.mean == series.step * 100 + 77).all()
            assert record.series("gradient", "3").step.tolist() == list(range(0, min(step + 1, 200), 2))
            assert record.watched_steps.tolist() == list(range(0, step + 1, 2))
            assert record.loss().value.tolist() == list(range(step + 1))
            if step == 70:
                held = series
    assert held is not None
    assert (held.mean == held.step * 100 + 77).all()
    assert len(held) == 36
    assert run is not None
    assert run.damage == []


def test_every_byte_arriving_alone_is_never_damage(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    out = writer(source)
    out.declare({"type": "process", "rank": 0})
    id = out.series("gradient", "w")
    out.statistics(0, [(id, *[1.0] * 8)])
    out.row(frames.ROW_STEP, 0, 0, 0, 0.0, 0.0)
    out.close()
    [path] = source.iterdir()
    data = path.read_bytes()
    (copy / path.name).write_bytes(b"")
    run = open_run(copy)
    for byte in data:
        with open(copy / path.name, "ab") as file:
            file.write(bytes([byte]))
        run.refresh()
        assert run.damage == []
    assert run.records[0].step_count == 1
    assert len(run.records[0].series("gradient", "w")) == 1


def test_ticks_flush_at_64_steps_or_a_second(tmp_path: Path) -> None:
    out = writer(tmp_path)
    sizes = []
    for step in range(1, 200):
        out.row(frames.ROW_STEP, 0, 0, step - 1, 0.0, 0.0)
        out.tick(step, 5.0)
        sizes.append(out.written)
    changes = [1 + index for index in range(len(sizes)) if index == 0 or sizes[index] != sizes[index - 1]]
    assert changes == [1, 1 + STEPS_AT_RISK, 1 + 2 * STEPS_AT_RISK, 1 + 3 * STEPS_AT_RISK]
    out.row(frames.ROW_STEP, 0, 0, 199, 0.0, 0.0)
    out.tick(200, 6.0)
    assert out.written > sizes[-1]
    out.close()


def test_neither_torch_nor_numpy_come_with_the_writer() -> None:
    code = "import sys, wellfit.probe.writer; print(sorted({'torch', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, wellfit.record; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
