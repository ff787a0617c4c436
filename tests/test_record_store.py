"""Where runs live, how they are found and opened."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from wellfit.errors import WellfitError
from wellfit.probe import frames
from wellfit.probe.writer import Writer
from wellfit.record import Record, open_run
from wellfit.record.store import find_run, list_runs, new_run_folder, runs_folder
from wellfit.record.writing import write_json

BIG = 1 << 40


def writer(folder: Path, segment_bytes: int = 16 << 20, quota: int = BIG) -> Writer:
    return Writer(str(folder), 0, os.getpid(), quota, segment_bytes)


def only(folder: Path) -> Record:
    run = open_run(folder)
    assert run.damage == []
    assert len(run.records) == 1
    return run.records[0]


# Runs --------------------------------------------------------------------------------------------------------------


def test_open_run_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(WellfitError, match="is not a folder"):
        open_run(tmp_path / "absent")
    with pytest.raises(WellfitError, match="holds no record"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("[")
    assert open_run(tmp_path).meta == {}
    assert open_run(tmp_path).damage == ["run.json could not be read"]


def test_records_are_ordered_by_rank_then_steps(tmp_path: Path) -> None:
    for rank, pid, steps in ((1, 5, 9), (0, 7, 1), (0, 6, 3)):
        out = Writer(str(tmp_path), rank, pid, BIG)
        out.row(frames.ROW_STEP, 0, 0, steps, 0, 0)
        out.close()
    assert [(record.rank, record.pid) for record in open_run(tmp_path).records] == [(0, 6), (0, 7), (1, 5)]


def test_runs_are_made_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WELLFIT_DIR", raising=False)
    hostile, note = new_run_folder(tmp_path, "../../x/ev\x1b[31mil \u202e.py")
    assert note is None
    assert hostile.parent == tmp_path / ".wellfit"
    assert hostile.name.isascii() and hostile.name.isprintable() and " " not in hostile.name
    assert (tmp_path / ".wellfit" / ".gitignore").read_text() == "*\n"
    with pytest.raises(WellfitError, match="no run yet"):
        find_run("last", tmp_path)
    runs = tmp_path / ".wellfit"
    for name in ("20200101-000000-train-aaaa", "20200102-000000-train-bbbb", "20200102-000000-other-cccc"):
        (runs / name).mkdir()
        write_json(runs / name / "run.json", {"id": name})
    assert len(list_runs(tmp_path)) == 3
    assert find_run("20200101", tmp_path).name == "20200101-000000-train-aaaa"
    assert find_run("last", tmp_path).name.startswith("20200102")
    assert find_run(".wellfit/20200101-000000-train-aaaa", tmp_path) == runs / "20200101-000000-train-aaaa"
    with pytest.raises(WellfitError, match="beginning of 2 runs"):
        find_run("20200102", tmp_path)
    with pytest.raises(WellfitError, match="did you mean 20200101-000000-train-aaaa"):
        find_run("20200101-000000-trian-aaaa", tmp_path)
    monkeypatch.setenv("WELLFIT_DIR", str(tmp_path / "elsewhere"))
    assert runs_folder(tmp_path) == tmp_path / "elsewhere"


def test_a_folder_that_cannot_be_written_gives_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WELLFIT_DIR", raising=False)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (tmp_path / ".wellfit").write_text("a file in the way")
    run, note = new_run_folder(tmp_path, "train.py")
    assert run.is_dir()
    assert temporary in run.parents
    assert note is not None and ".wellfit" in note and str(run) in note
    write_json(run / "run.json", {})
    assert find_run("last", tmp_path) == run


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["findings.json"]
