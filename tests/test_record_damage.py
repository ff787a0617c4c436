"""Whatever the bytes of the files: the reader never raises, and little is lost."""

from __future__ import annotations

import json
import random
import shutil
import struct
import tempfile
import tracemalloc
import zlib
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import ask_everything, write_run

from wellfit.probe import frames
from wellfit.record import open_run

# Damaged files -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_run(folder)
    return folder


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_lose_only_what_they_hit(good: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    path = chance.choice(sorted(folder.iterdir()))
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    run = open_run(folder)
    ask_everything(run)
    [record] = run.records
    for subject in record.subjects("gradient"):
        series = record.series("gradient", subject)
        assert len(series) >= 50  # at most the five steps after a lost frame, or a frame that hides others
        assert (series.mean == series.step).all()
    assert run.damage != []
    assert len(record.steps) >= 50


@pytest.mark.parametrize("seed", range(60))
def test_torn_files(good: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "run"
    shutil.copytree(good, folder)
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if chance.random() < 0.6:
            start = chance.randrange(len(data))
            length = chance.choice([1, 23, 24, 1000, len(data)])
            filling = chance.choice([b"", bytes(length), chance.randbytes(length), b"WFIT" * (length // 4)])
            path.write_bytes(data[:start] + filling + data[start + chance.choice([0, length]) :])
    run = open_run(folder)
    ask_everything(run)
    for record in run.records:
        for subject in record.subjects("gradient"):
            series = record.series("gradient", subject)
            assert (series.mean == series.step).all()


def test_a_frame_cut_in_the_middle_does_not_hide_the_next(tmp_path: Path) -> None:
    whole = frames.statistics_frame(1, 0, array("f", [1.0] * 80))
    rows = frames.frame(frames.ROWS, 1, frames.ROW.pack(frames.ROW_STEP, 0, 0, 4, 0, 0))
    path = tmp_path / "r0-1-0000.wfr"
    path.write_bytes(10 * (whole[:60] + rows))
    run = open_run(tmp_path)
    living = len(run.records[0].steps)
    assert 5 < living < 10  # the last ones may be inside of a frame that is still being written
    (tmp_path / "run.json").write_text('{"ended": 1.0}')
    run.refresh()
    assert len(run.records[0].steps) == len(open_run(tmp_path).records[0].steps) == 10


def test_a_cut_end_is_no_damage_but_a_cut_closed_segment_is(tmp_path: Path) -> None:
    row = frames.frame(frames.ROWS, 1, frames.ROW.pack(frames.ROW_STEP, 0, 0, 4, 0, 0))
    (tmp_path / "r0-1-0000.wfr").write_bytes(row + row[:-3])
    assert open_run(tmp_path).damage == []
    (tmp_path / "r0-1-0001.wfr").write_bytes(row)
    run = open_run(tmp_path)
    assert run.damage == ["45 damaged bytes of r0-1-0000.wfr were left out"]
    assert len(run.records[0].steps) == 2


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=200) | st.just(b"WFIT") | st.just(b"WFIT\x01\x01\0\0"), max_size=8))
def test_garbage(parts: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "r0-1-0000.wfr").write_bytes(b"".join(parts))
        ask_everything(open_run(name))


json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "step", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
field = st.sampled_from(
    [
        *("id", "name", "layer", "shape", "dtype", "order", "parameters", "initial", "optimizer", "class", "groups"),
        *("group", "series", "events", "event", "step", "nodes", "next", "cuts", "location", "root", "attributes"),
        *("activation", "registered", "batch_size", "shuffle", "rank", "world_size", "watched", "what", "file", "line"),
    ]
)
kind = st.sampled_from(
    [
        *("process", "schema", "layer", "parameter", "optimizer", "hyper", "scheduler", "loader", "loss"),
        *("backward", "pattern", "graph", "event", "cost", "unseen"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(kind, st.dictionaries(field, json_value, max_size=6)), max_size=6), st.binary(max_size=80))
def test_declarations_of_any_content_with_good_checksums(
    objects: list[tuple[str, dict[str, Any]]], rows: bytes
) -> None:
    with tempfile.TemporaryDirectory() as name:
        data = b"".join(
            frames.frame(frames.JSON, 0, json.dumps({"event": "mode", **fields, "type": kind}).encode())
            for kind, fields in objects
        )
        data += frames.frame(frames.JSON, 0, rows) + frames.frame(frames.ROWS, 0, rows)
        data += frames.statistics_frame(0, 1, array("f", [0.0] * 16))
        (Path(name) / "r0-1-0000.wfr").write_bytes(data)
        run = open_run(name)
        ask_everything(run)
        for _, fields in objects:
            for subject in fields.values():
                if isinstance(subject, str):
                    run.records[0].series("gradient", subject)


@pytest.mark.parametrize(
    "payload", [b"[" * 100_000, b"9" * 10_000, b'{"type":"layer","name":"\xff"}', b"null", b'"x"', b"{}", b""]
)
def test_hostile_json(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "r0-1-0000.wfr").write_bytes(frames.frame(frames.JSON, 0, payload))
    run = open_run(tmp_path)
    ask_everything(run)
    assert len(run.damage) == 1


@pytest.mark.parametrize("kind", [frames.JSON, frames.STATISTICS, frames.ROWS, 9])
@pytest.mark.parametrize("length", [0, 7, 1 << 20, frames.MAX_PAYLOAD, 0xFFFFFFFF])
def test_huge_lengths_allocate_nothing(tmp_path: Path, kind: int, length: int) -> None:
    head = struct.pack("<4sBBHIII", b"WFIT", kind, 1, 0, length, 0, 0)
    head += struct.pack("<I", zlib.crc32(head))
    good = frames.frame(frames.ROWS, 0, frames.ROW.pack(frames.ROW_STEP, 0, 0, 0, 0, 0))
    series = frames.pack_header(frames.STATISTICS, 0, 8, zlib.crc32(b"\xff" * 8)) + b"\xff" * 8
    path = tmp_path / "r0-1-0000.wfr"
    path.write_bytes(series + head + good)
    (tmp_path / "r0-1-0001.wfr").write_bytes(b"")
    tracemalloc.start()
    try:
        run = open_run(tmp_path)
        ask_everything(run)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert len(run.records[0].steps) == 1


def test_a_newer_version_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    payload = b"something else"
    head = struct.pack("<4sBBHIII", b"WFIT", 1, 2, 0, len(payload), 0, 0)
    data = head + struct.pack("<I", zlib.crc32(head)) + payload
    (tmp_path / "r0-1-0000.wfr").write_bytes(data + frames.frame(frames.JSON, 0, b'{"type":"layer","name":"a"}'))
    run = open_run(tmp_path)
    assert list(run.records[0].layers) == ["a"]
    assert run.damage == ["1 frames of r0-1-0000.wfr were written by a newer wellfit and left out"]


@pytest.mark.parametrize("left", [0.3, 0.6, 0.97])
def test_a_record_that_was_cut_says_that_it_ends_early(tmp_path: Path, left: float) -> None:
    write_run(tmp_path, segment_bytes=1 << 30)
    (path,) = tmp_path.glob("*.wfr")
    with path.open("ab") as file:
        file.write(frames.frame(frames.JSON, 60, b'{"type":"cost","steps":60,"watched":60}'))
    (tmp_path / "run.json").write_text('{"status": "ended", "exit_code": 0, "signal": null}')
    assert open_run(tmp_path).damage == []
    with path.open("r+b") as file:
        file.truncate(int(left * path.stat().st_size))
    [sentence] = open_run(tmp_path).damage
    steps = open_run(tmp_path).records[0].step_count
    assert 0 < steps < 61
    assert sentence.startswith(f"the record of process 7 ends early, after {steps} steps: ")
    (tmp_path / "run.json").write_text('{"status": "ended", "exit_code": 137, "signal": 9}')
    assert open_run(tmp_path).damage == []  # what a killed process had not written is no damage
    (tmp_path / "run.json").write_text('{"status": "running"}')
    assert open_run(tmp_path).damage == []
