"""Killed processes and failing disks: the writer never raises, and at most 64 steps are lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_records import ask_everything, fill, write_run

from wellfit.probe.writer import STEPS_AT_RISK, Writer
from wellfit.record import open_run

# Killed ------------------------------------------------------------------------------------------------------------

_VICTIM = """
import fcntl, os, sys
from array import array
from wellfit.probe.writer import Writer

folder, kill_at, segment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for moment in range(kill_at, kill_at + 10):
    inside = os.path.join(folder, str(moment))
    os.mkdir(inside)
    out_end, in_end = os.pipe()
    fcntl.fcntl(in_end, 1031, 4096)  # F_SETPIPE_SZ: the child is at most 1,024 steps ahead
    child = os.fork()
    if child == 0:
        writer = Writer(inside, 0, 1, 1 << 40, segment)
        ids = tuple(writer.series("gradient", str(number)) for number in range(100))
        for step in range(1 << 30):
            writer.row(66, 0, 0, step, float(step), 0.0)
            writer.statistics(step, (ids, array("f", [step] * 800)))
            writer.row(83, 0, 0, step, 0.0, 0.0)
            writer.tick(step + 1, 0.0)
            os.write(in_end, (step + 1).to_bytes(4, "little"))
    os.close(in_end)
    done = 0
    while done < 11 * moment + 5:  # the pipe holds more, so the child is anywhere when it is killed
        done = int.from_bytes(os.read(out_end, 4), "little")
    os.kill(child, 9)
    os.waitpid(child, 0)
    while data := os.read(out_end, 4096):
        done = int.from_bytes(data[-4:], "little")
    os.close(out_end)
    with open(os.path.join(folder, f"{moment}.done"), "w") as file:
        file.write(str(done))
"""


def test_killed_at_sixty_moments(tmp_path: Path) -> None:
    moments = range(0, 60, 10)
    for first in moments:
        segment = 16 << 20 if first % 20 else 300_000
        subprocess.run([sys.executable, "-c", _VICTIM, str(tmp_path), str(first), str(segment)], check=True, timeout=60)
    lost = []
    for moment in range(60):
        done = int((tmp_path / f"{moment}.done").read_text())
        folder = tmp_path / str(moment)
        run = open_run(folder)
        ask_everything(run)
        assert run.damage == []
        [record] = run.records
        lost.append(done - record.step_count)
        # a kill may also tear the write itself, after the rows
        statistics = record.series("gradient", "99").step.tolist()
        assert statistics == list(range(len(statistics)))
        lost.append(done - len(statistics))
        assert record.loss().value.tolist() == list(range(record.step_count))
    assert max(lost) <= STEPS_AT_RISK
    assert len(set(lost)) > 10  # they really were killed at different moments


# Disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_failing_disk_makes_it_quiet_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: int
) -> None:
    calls = []
    write = os.write

    def failing(fd: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return write(fd, data[: max(1, len(data) - 100)] if len(calls) == after else data)

    monkeypatch.setattr("wellfit.probe.writer.os.write", failing)
    out = Writer(str(tmp_path), 0, 7, 1 << 40)
    fill(out, 40, 70)
    out.close()
    assert len(calls) == after + 1
    assert out.broken is not None and os.strerror(code) in out.broken
    ask_everything(open_run(tmp_path))


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("wellfit.probe.writer.os.write", lambda fd, data: write(fd, data[:1000]))
    write_run(tmp_path)
    monkeypatch.undo()
    run = open_run(tmp_path)
    assert run.damage == []
    assert len(run.records[0].series("gradient", "69")) == 60


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\nfrom made_records import *\n"
        "out = Writer(sys.argv[1], 0, 7, 1 << 40); fill(out, 40, 70); out.close(); print(out.broken)"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path), here],
        preexec_fn=limit, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "File too large" in done.stdout
    run = open_run(tmp_path)
    ask_everything(run)
    assert 5 <= len(run.records[0].watched_steps) < 20


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr("wellfit.probe.writer.os.open", lambda path, flags, mode: real("/dev/full", os.O_WRONLY))
    out = Writer(str(tmp_path), 0, 7, 1 << 40)
    fill(out, 10, 70)
    out.close()
    assert out.broken is not None and "No space left" in out.broken


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_deleted_folder(tmp_path: Path, when: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    out = Writer(str(folder), 0, 7, 1 << 40)
    if when == "while":
        fill(out, 10, 10)
    shutil.rmtree(folder)
    fill(out, 10, 10)
    assert out.broken is not None
    out.close()
    assert not folder.exists()


def test_a_folder_deleted_under_the_reader(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder)
    run = open_run(folder)
    shutil.rmtree(folder)
    run.refresh()
    ask_everything(run)
    assert len(run.records[0].series("gradient", "5")) == 0
    assert run.records[0].step_count == 60
