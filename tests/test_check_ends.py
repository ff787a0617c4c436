"""How a check ends where it cannot go on: a script that fails, no time, a signal, options that are wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from overridden import ENV
from test_check import ILL, check


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
