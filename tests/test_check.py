"""`wellfit check` as a user meets it: which runs it makes, what it tells of them, what it leaves alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import jsonschema  # type: ignore[import-untyped]
import pytest
from overridden import ENV

from wellfit.check.short_run import Ended, last_lines
from wellfit.check.told import not_tried
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


@pytest.mark.slow
def test_a_script_that_fails_by_itself_is_told_so_with_its_last_lines(tmp_path: Path) -> None:
    done = check(tmp_path, "train.py", script="import torch\nprint('first')\nraise SystemExit('no data there')\n")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:3] == ["  first", "  no data there"]
    assert "the script ended with exit code 1 as it is, so nothing was tried; all that it wrote is in" in done.stderr
    done = check(tmp_path, "--quiet", "train.py", script="import sys\nsys.exit(7)\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


@pytest.mark.slow
def test_a_script_that_fails_under_way_is_judged_as_far_as_it_came(tmp_path: Path) -> None:
    script = ILL.replace("    print(epoch", "    assert epoch < 2, 'enough'\n    print(epoch").replace(
        "x = x - x.mean(0)", "x = 1e30 * x * x"
    )
    done = check(tmp_path, "train.py", script=script)
    assert done.returncode == 1
    assert "AssertionError: enough" in done.stderr and "so nothing was tried" in done.stderr
    assert ("wellfit: " in done.stderr and "record: " in done.stderr) or "report: " in done.stderr


@pytest.mark.slow
def test_what_cannot_be_stopped_is_refused(tmp_path: Path) -> None:
    script = """
    import torch
    w = torch.zeros(3, requires_grad=True)
    for _ in range(5):
        (w - 1).square().sum().backward()
        w.data -= 0.1 * w.grad
    """
    done = check(tmp_path, "train.py", script=script)
    assert done.returncode == 2
    assert "check does not fit this script: stop-after=300" in done.stderr
    assert "the script steps no optimizer" in done.stderr


@pytest.mark.slow
def test_the_time_is_kept(tmp_path: Path) -> None:
    slow = "import time\nimport torch\ntime.sleep(60)\n"
    begun = time.monotonic()
    done = check(tmp_path, "--time", "2", "train.py", script=slow)
    assert done.returncode == 2 and time.monotonic() - begun < 50
    assert "the script made no step before the time was over: give --time more seconds" in done.stderr


@pytest.mark.slow
def test_an_interrupt_ends_the_check_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        ILL.replace("        optimizer.step()", "        optimizer.step(); import time; time.sleep(0.02)")
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "wellfit", "check", "--select", "cannot-overfit", "--steps", "100", "train.py"],
        cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stderr is not None
    seen = ""
    while "run 2 of 2" not in seen:
        line = child.stderr.readline()
        assert line, seen
        seen += line
    child.send_signal(signal.SIGINT)
    seen += child.stderr.read()
    assert child.wait(60) == -signal.SIGINT
    assert "tried as it is: 100 steps" in seen


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "check needs a script or command, such as: wellfit check train.py"),
        (["--stps", "3", "train.py"], 'check has no option --stps (did you mean "--steps"?)'),
        (["--steps", "0", "train.py"], "0 is not a whole number above 0"),
        (["--time", "soon", "train.py"], "soon is not a number of seconds above 0"),
        (["--override", "stop-after=3", "train.py"], "--override stop-after=3 is what check sets for all its runs"),
        (["--select", "cant-overfit", "train.py"], 'no rule is called "cant-overfit"'),
        (["trian.py"], "there is no script trian.py"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_started(words: list[str], sentence: str, tmp_path: Path) -> None:
    done = check(tmp_path, *words, script="open('started', 'w')")
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.py"]


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
