"""Runs that overrides changed, and runs that did not end well, are told from others everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures_report import write_run

from wellfit.finding import Finding
from wellfit.probe.writer import Writer
from wellfit.record import Run, open_run
from wellfit.report import summary_text, to_github, to_json, to_sarif
from wellfit.report.page_data import Limits, page_data
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
        "overrides": [{"override": "lr", "value": 0.01}, {"override": "one-batch"}],
        "typed_overrides": ["lr=0.01", "one-batch"],
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
    (changed.folder / "findings.json").write_text(json.dumps(to_json([], changed)))
    assert runs_text(tmp_path).endswith("too short  --override lr=0.01 --override one-batch python train.py --lr 3\n")
    (changed.folder / "findings.json").write_text('{"verdict": "healthy", "findings": []}')
    assert "  healthy  " in runs_text(tmp_path)
    meta = json.loads((changed.folder / "run.json").read_text())
    (changed.folder / "run.json").write_text(json.dumps(meta | {"exit_code": 2}))
    (changed.folder / "findings.json").write_text('{"verdict": "failed", "findings": []}')
    assert "exit 2  nothing found" in runs_text(tmp_path)
    (changed.folder / "findings.json").unlink()
    assert "exit 2  not judged" in runs_text(tmp_path)


def test_the_list_of_runs_is_in_columns_and_says_which_never_trained(changed: Run, tmp_path: Path) -> None:
    for name, meta in (("20261121-120001-code-ab12", {"status": "ended", "exit_code": 0, "command": "-c 'print(1)'"}),
                       ("20261121-120002-x-ab12", {"status": "ended", "signal": 9, "command": "x.py"})):  # fmt: skip
        folder = tmp_path / ".wellfit" / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(meta))
    trained, code, killed = runs_text(tmp_path).splitlines()
    assert code.endswith("  exit 0    no training  -c 'print(1)'")
    assert killed.endswith("  signal 9  no training  x.py")
    assert trained.index("--override") == code.index("-c 'p") == killed.index("x.py")


@pytest.mark.parametrize(("steps", "said"), [(1, "1 step is"), (19, "19 steps are")])
def test_a_run_of_a_few_steps_is_not_called_healthy(tmp_path: Path, steps: int, said: str) -> None:
    run = write_run(tmp_path, steps=steps, layers=1, diverge=False)
    assert summary_text([], run, False).startswith(f"wellfit: no illness seen, but {said} too few to judge\n")
    assert to_json([], run)["verdict"] == "too-short"
    assert page_data([], run, Limits())["verdict"] == "too-short"


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
