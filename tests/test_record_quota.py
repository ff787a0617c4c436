"""The quota, and the thinning that makes room."""

from __future__ import annotations

import errno
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import ask_everything, fill, write_run

from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Record, open_run
from wellfit.record.segment import Scanner
from wellfit.record.thin import thin

NAN = float("nan")


# Quota and thinning ------------------------------------------------------------------------------------------------


def test_quota_stops_statistics_but_not_rows_nor_the_first_nan(tmp_path: Path) -> None:
    out = Writer(str(tmp_path), 0, 7, 50_000)
    assert out.quota_left() == 1.0
    fill(out, 100, 70)
    assert out.quota_left() == 0.0
    ids = tuple(out.series("gradient", str(number)) for number in range(70))
    out.statistics(100, (ids, array("f", [64.0, *[NAN] * 7] * 70)), keep=True)
    out.close()
    record = open_run(tmp_path).records[0]
    assert record.step_count == 100
    steps = record.series("gradient", "3").step
    assert 15 < len(steps) < 30
    assert steps[-1] == 100
    assert out.written < 100_000


def test_beyond_twice_the_quota_only_what_must_be_kept(tmp_path: Path) -> None:
    out = Writer(str(tmp_path), 0, 7, 2_000)
    for step in range(1000):
        out.row(frames.ROW_STEP, 0, 0, step, 0, 0)
        out.flush()
    assert 4_000 < out.written < 4_200
    out.statistics(999, [(out.series("gradient", "new"), *[1.0] * 8)])
    out.flush()
    out.statistics(1000, [(out.series("gradient", "new"), 64.0, *[NAN] * 7)], keep=True)
    out.close()
    assert open_run(tmp_path).records[0].series("gradient", "new").step.tolist() == [1000]


def test_series_that_come_and_go_do_not_multiply_schemas(tmp_path: Path) -> None:
    chance = random.Random(0)
    out = Writer(str(tmp_path), 0, 7, 1 << 40, 200_000)
    seen: dict[int, list[int]] = {}
    for step in range(400):
        chosen = chance.sample(range(50 if step < 200 else 90), 40)
        for number in chosen:
            seen.setdefault(number, []).append(step)
        first = 1.0 if step % 2 else NAN
        out.statistics(step, [(out.series("update", str(n)), first, *[float(n)] * 7) for n in chosen])
        out.flush()
    out.close()
    record = open_run(tmp_path).records[0]
    assert len(record._declared.schemas) < 60
    assert out.written < 400 * 90 * 32 * 1.5
    for number, steps in seen.items():
        series = record.series("update", str(number))
        assert series.step.tolist() == steps
        assert (series.b == number).all()


def thinned_run(folder: Path, nan_at: int) -> Record:
    out = Writer(str(folder), 0, 7, 1 << 40, 60_000)
    ids = tuple(out.series("gradient", str(number)) for number in range(70))
    for step in range(100):
        numbers = [step, step, step, step, NAN, NAN, step, step]
        row = numbers if step < nan_at else [step, NAN, NAN, NAN, NAN, NAN, step, step]
        out.statistics(step, (ids, array("f", numbers * 69 + row)))
        out.row(frames.ROW_STEP, 0, 0, step, 0, 0)
        out.declare({"type": "event", "event": "epoch", "step": step})
        out.flush()
    out.close()
    return open_run(folder).records[0]


def test_thinning_keeps_the_first_nan_and_the_extremes(tmp_path: Path) -> None:
    thinned_run(tmp_path, nan_at=50)
    live = open_run(tmp_path)
    before = live.records[0].series("gradient", "69")
    assert len(before) == 100
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    newest = max(tmp_path.iterdir()).read_bytes()
    freed = thin(tmp_path, "r0-7-", size - 20_000)
    assert 20_000 <= freed < 60_000
    assert size - freed == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert max(tmp_path.iterdir()).read_bytes() == newest
    assert thin(tmp_path, "r0-7-", 0) > 0
    assert max(tmp_path.iterdir()).read_bytes() == newest
    live.refresh()
    for run in (live, open_run(tmp_path)):
        assert run.damage == []
        [record] = run.records
        assert record.step_count == 100
        assert len(record.steps) == 100
        assert [event["step"] for event in record.events("epoch")] == list(range(100))
        for subject in ("0", "69"):
            series = record.series("gradient", subject)
            assert len(series) < 60
            assert {48, 49, 50} <= set(series.step.tolist())
            assert (np.diff(series.step) > 0).all()
            assert series.a.min() == 0
            assert series.a.max() == 99
            assert (series.a == series.step).all()  # rising numbers: the minimum is the first, the maximum the last
        series = record.series("gradient", "69")
        assert np.isnan(series.rms).tolist() == (series.step >= 50).tolist()
    with open(min(tmp_path.iterdir()), "rb") as file:
        found = [frame.header for frame in Scanner().frames(file.fileno(), closed=True)]
    flags = [header.flags for header in found if header.kind == frames.STATISTICS]
    assert flags[0] == flags[1] == frames.THINNED
    assert flags[-2:] == [0, 0]


def test_a_record_that_grows_while_it_is_thinned(tmp_path: Path) -> None:
    out = Writer(str(tmp_path), 0, 7, 400_000, 60_000)
    ids = tuple(out.series("gradient", str(number)) for number in range(70))
    run = None
    for step in range(400):
        out.statistics(step, (ids, array("f", [step] * 560)))
        out.row(frames.ROW_STEP, 0, 0, step, 0, 0)
        out.flush()
        if step % 50 == 10:
            run = run or open_run(tmp_path)
            thin(tmp_path, "r0-7-", 200_000)
            run.refresh()
            series = run.records[0].series("gradient", "7")
            assert (series.a == series.step).all()
            assert series.step[-1] == step
            assert len(run.records[0].steps) == step + 1
    out.close()
    assert run is not None
    assert run.damage == []
    assert out.quota_left() > 0  # the writer saw that there was room again


def test_thinning_leaves_damaged_frames_alone_and_a_full_disk_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path)
    first = min(tmp_path.iterdir())
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("wellfit.record.writing.os.replace", full)
    assert thin(tmp_path, "r0-7-", 0) == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert thin(tmp_path, "r0-7-", 0) > 0
    ask_everything(open_run(tmp_path))
