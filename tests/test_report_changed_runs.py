"""Runs that overrides changed, and runs that did not end well, are told from others everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures_report import write_run

from wellfit.finding import Finding
from wellfit.probe.writer import Writer
from wellfit.record import Run, open_run
from wellfit.report import summary_text, to_github, to_sarif
from wellfit.runs import runs_text

ILL = Finding("plateau", "CRV603", "error", "the loss is flat; look at it")


@pytest.fixture
def changed(tmp_path: Path) -> Run:
    folder = tmp_path / ".wellfit" / "20261121-120000-train-abcd"
    write_run(folder, steps=3, layers=1)
    meta = json.loads((folder / "run.json").read_text())
    meta |= {
        "command": "python train.py --lr 3",
        "status": "ended",
        "overrides": [{"override": "lr", "rate": 0.01}, {"override": "one-batch"}],
    }
    (folder / "run.json").write_text(json.dumps(meta))
    writer = Writer(str(folder), 0, 4711, 10**9)
    writer.declare(
        {"type": "override", "id": 0, "name": "lr", "text": "lr=0.01", "changed": ["lr 0.1 -> 0.01"], "left_out": []}
    )
    writer.flush()
    return open_run(folder)


def test_in_github_annotations(changed: Run) -> None:
    notice, finding = to_github([ILL], changed).splitlines()
    assert notice == "::notice title=wellfit::found under override lr=0.01: lr 0.1 -> 0.01"
    assert finding.startswith("::error ")
    assert to_github([], changed) == ""


def test_in_sarif(changed: Run) -> None:
    (invocation,) = to_sarif([ILL], changed)["runs"][0]["invocations"]
    assert invocation["properties"] == {"overrides": ["override lr=0.01: lr 0.1 -> 0.01"]}


def test_in_the_list_of_runs(changed: Run, tmp_path: Path) -> None:
    (changed.folder / "findings.json").write_text('{"findings": []}')
    assert "healthy" in runs_text(tmp_path)
    assert runs_text(tmp_path).endswith("--lr 3 --override lr=rate:0.01 --override one-batch\n")
    meta = json.loads((changed.folder / "run.json").read_text())
    (changed.folder / "run.json").write_text(json.dumps(meta | {"exit_code": 2}))
    assert "exit 2        nothing found" in runs_text(tmp_path)


def test_a_program_that_crashed_is_not_called_healthy(tmp_path: Path) -> None:
    write_run(tmp_path, steps=3, layers=1)
    meta = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(meta | {"exit_code": 1}))
    text = summary_text([], open_run(tmp_path), False)
    assert text.startswith("wellfit: no error found; the program ended with exit code 1\n")


def test_a_crashed_program_with_a_note_is_not_said_to_have_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, steps=3, layers=1)
    (tmp_path / "run.json").write_text('{"exit_code": 2}')
    note = Finding("plateau", "CRV603", "note", "it learns nothing; wait")
    text = summary_text([note], open_run(tmp_path), False)
    assert text.startswith("wellfit: no error found; the program ended with exit code 2, 1 note (in the report)\n")
