"""`wellfit check` as a user meets it: which runs it makes, what it tells of them, what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import jsonschema  # type: ignore[import-untyped]
import pytest
from overridden import ENV

from wellfit.check.told import not_tried
from wellfit.launch.short_run import Ended, last_lines
from wellfit.record import open_run
from wellfit.report.as_json import schema
from wellfit.rule import Rule

ILL = """
import os, sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = x - x.mean(0)
        return self.head(torch.relu(self.hidden(x)))

torch.manual_seed(0)
x = torch.randn(400, 16)
y = (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
print("arguments", sys.argv[1:])
for epoch in range(50):
    for batch in torch.randperm(400).split(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
    torch.save(model.state_dict(), "best.pt")
print("the end")
"""


def check(folder: Path, *words: str, script: str = ILL) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(dedent(script))
    command = [sys.executable, "-m", "wellfit", "check", *words]
    return subprocess.run(command, cwd=folder, env=ENV, text=True, capture_output=True, timeout=240)


def only_run(folder: Path) -> Path:
    (found,) = (folder / ".wellfit").glob("*/run.json")
    return found.parent


@pytest.mark.slow
def test_a_check_tells_what_each_run_showed_and_keeps_its_hands_off(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_text("precious")
    done = check(tmp_path, "--steps", "60", "--fail-on", "error", "train.py", "--lr", "1")
    assert done.returncode == 1 and done.stdout == ""
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert lines[0] == "wellfit: run 1 of 5: as it is"
    assert any(line.startswith("error INI211 batch-leak") for line in lines)
    assert "look for an axis counted" in done.stderr and "train.py:11" in done.stderr
    tried = [line for line in lines if line.startswith(("tried ", "not tried: "))]
    assert tried[0].startswith("tried as it is: 60 steps, loss ")
    assert {line.partition(": ")[0] for line in tried[1:]} == {
        "tried leak-test", "not tried", "tried zero-input", "tried one-batch",
    }  # fmt: skip
    assert (
        "not tried: grad-test: found nothing to change by the first step: the script calls no autograd.Function of "
        "its own that could be tested"
    ) in tried
    assert "override seed" not in done.stderr and "the end" not in done.stderr
    # Nothing of the user's was written over, and all that the script said is kept.
    assert (tmp_path / "best.pt").read_text() == "precious"
    assert {entry.name for entry in tmp_path.iterdir()} == {"best.pt", "train.py", ".wellfit"}
    said = (only_run(tmp_path) / "output.txt").read_text()
    assert "arguments ['--lr', '1']" in said and "stopped after step 60" in said and "the end" not in said
    # Judged again, the record says the same.
    again = subprocess.run(
        [sys.executable, "-m", "wellfit", "diagnose", "last", "--format", "json"],
        cwd=tmp_path, env=ENV, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    kept = json.loads((only_run(tmp_path) / "findings.json").read_text())
    assert json.loads(again.stdout) == kept
    jsonschema.validate(kept, schema())
    assert kept["run"]["trials"] == tried and kept["run"]["overrides"] == []
    for kind, told in (
        ("sarif", '"tried one-batch: 60 steps'),
        ("github", "::notice title=wellfit check::tried one-b"),
    ):
        other = subprocess.run(
            [sys.executable, "-m", "wellfit", "diagnose", "last", "--format", kind],
            cwd=tmp_path, env=ENV, text=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert told in other.stdout
    listed = subprocess.run(
        [sys.executable, "-m", "wellfit", "runs"], cwd=tmp_path, env=ENV, text=True, capture_output=True, timeout=60
    )
    assert "check train.py --lr 1" in listed.stdout


@pytest.mark.slow
def test_only_trials_of_selected_rules_are_made_and_overrides_hold_for_all_runs(tmp_path: Path) -> None:
    done = check(tmp_path, "--steps", "30", "--select", "batch-leak,plateau", "--override", "lr=0.02", "train.py")
    assert done.returncode == 0
    assert "run 1 of 2: as it is" in done.stderr and "run 2 of 2: leak-test" in done.stderr
    folder = only_run(tmp_path)
    rates = [entry.changed for run in (open_run(folder), *open_run(folder).trials.values())
             for record in run.records for entry in record.overrides.values() if entry.name == "lr"]  # fmt: skip
    assert rates == [("Adam at train.py:19: lr 0.01 -> 0.02",)] * 2


# Parts --------------------------------------------------------------------------------------------------------------


def noted(folder: Path, trials: list[object], **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"status": "ended", "check": {"trials": trials}, **more}))
    return folder


def test_trials_lie_in_the_run_and_nowhere_else(tmp_path: Path) -> None:
    entries: list[object] = [
        {"override": "a", "folder": "../.."}, {"override": "b", "folder": ""}, {"override": "c", "folder": None},
        {"override": 3, "folder": "d"}, "e", None, {"folder": "f"}, {"override": "g", "folder": "/etc"},
    ]  # fmt: skip
    run = open_run(noted(tmp_path / "run", [*entries, {"override": "one-batch", "folder": "1-one-batch"}]))
    assert list(run.trials) == ["one-batch"] and run.trials["one-batch"].records == []
    for odd in (3, "x", {"override": 1}):
        assert open_run(noted(tmp_path / "run", odd)).trials == {}  # type: ignore[arg-type]


def test_why_a_trial_tells_nothing(tmp_path: Path) -> None:
    assert not_tried(None, "one-batch", Ended(None, 1.0), tmp_path).startswith("its time was over")
    (tmp_path / "output.txt").write_text("a\n\nwellfit: ours\nValueError: \x1b[31mred\n")
    assert not_tried(None, "one-batch", Ended(1, 1.0), tmp_path) == (
        "the script ended with exit code 1 under it (ValueError: red)"
    )
    assert "signal 9" in not_tried(None, "one-batch", Ended(-9, 1.0), tmp_path)
    assert not_tried(None, "one-batch", Ended(0, 1.0), tmp_path) == "no training was seen under it"
    (tmp_path / "torch.txt").write_text("imported\nstopped --override one-batch cannot be applied: the script is odd\n")
    assert not_tried(None, "one-batch", Ended(2, 1.0), tmp_path) == "the script is odd"
    assert last_lines(tmp_path / "gone", 3) == []


def test_the_help_names_the_verb() -> None:
    words = [sys.executable, "-m", "wellfit", "--help"]
    done = subprocess.run(words, env=ENV, text=True, capture_output=True, timeout=60)
    assert "wellfit check train.py" in done.stdout
    assert Rule.trials == () and Rule.explained_like == ""
