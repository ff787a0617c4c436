"""`wellfit run` beside the plain run: same output, same end; and what the run's folder holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wellfit.finding import Finding
from wellfit.launch.live import Live
from wellfit.launch.voice import Voice
from wellfit.launch.watched import Options
from wellfit.record import open_run
from wellfit.testing import MadeRun

ROOT = Path(__file__).resolve().parent.parent
MAIN = f"import sys; sys.path.insert(1, {str(ROOT)!r}); from wellfit.__main__ import program; sys.exit(program())"
ENV = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WELLFIT"))},
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONDONTWRITEBYTECODE": "1",
}


def wellfit(*words: str, cwd: Path, **more) -> subprocess.CompletedProcess:
    env = {**ENV, **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words], cwd=cwd, env=env, text=True, capture_output=True, timeout=60, **more
    )


def plain(*words: str, cwd: Path, **more) -> subprocess.CompletedProcess:
    env = {**ENV, **more.pop("env", {})}
    return subprocess.run(list(words), cwd=cwd, env=env, text=True, capture_output=True, timeout=60, **more)


def run_folder(cwd: Path) -> Path:
    (folder,) = (entry for entry in (cwd / ".wellfit").iterdir() if entry.is_dir())
    return folder


def meta(cwd: Path) -> dict:
    return json.loads((run_folder(cwd) / "run.json").read_text())


NEVER = "wellfit: saw no training: torch was never imported\n"

SCRIPTS = {
    "plain": "print('hello')",
    "arguments": "import sys\nprint(sys.argv, __name__, __file__, sys.path[0], sys.flags)",
    "exit 3": "import sys\nprint(1)\nsys.exit(3)",
    "exit 256": "import sys\nsys.exit(256)",
    "exit with a text": "import sys\nsys.exit('gone')",
    "os._exit": "import os\nprint('a', flush=True)\nos._exit(5)",
    "raise": "def f():\n    raise ValueError('x')\nf()",
    "kill -9": "import os, signal\nprint('a', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
    "kill -TERM": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "kill -INT": "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)",
    "kill -HUP": "import os, signal\nos.kill(os.getpid(), signal.SIGHUP)",
    "abort": "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.abort()",
    "caught signal": "import os, signal, sys\nsignal.signal(15, lambda *a: sys.exit(9))\nos.kill(os.getpid(), 15)",
    "sigpipe as in a shell": "import signal\nprint(signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGINT))",
    "signals of a shell": (
        "print([int(l[8:], 16) & 0x7FFFFFFF for l in open('/proc/self/status') if l[:6] in ('SigBlk', 'SigIgn')])"
    ),
    "chdir": "import os\nos.chdir('/')\nprint(os.getcwd())",
    "json beside": "import json\nprint(json.mine)",
    "grp beside": "import grp\nprint(grp.mine)",
    "print redefined": "import builtins\nbuiltins.print = None\nimport sys\nsys.stdout.write('x')",
    "stderr closed": "import os, sys\nsys.stderr.close()\nos.close(2)\nprint('still')",
    "stdin": "import sys\nprint(sys.stdin.read().upper(), sys.stdin.isatty())",
    "not python": "this is no python at all",
    "open files": "import os\nprint(sorted(os.listdir('/proc/self/fd')))",
    "process group": "import os\nprint(os.getpgrp() == os.getppid() or os.getsid(0) == os.getsid(os.getppid()))",
    "path of children": "import os\nprint(os.environ['PYTHONPATH'].endswith('/elsewhere'))",
    "environment": (
        "import os\nprint(sorted((k, v) for k, v in os.environ.items()"
        " if k not in ('WELLFIT_RUN', 'WELLFIT_OPTIONS', 'PYTHONPATH')))"
    ),
    "forks and exits": "import os\nif os.fork() == 0:\n    os._exit(8)\nprint('parent')\nos.wait()",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_same_output_and_same_end(tmp_path, name):
    for module in ("json", "grp"):
        if name.startswith(module):
            (tmp_path / f"{module}.py").write_text("mine = 'yes'")
    (tmp_path / "train.py").write_text(SCRIPTS[name])
    more = {"cwd": tmp_path, "input": "some words", "env": {"PYTHONPATH": "/elsewhere"}}
    without = plain(sys.executable, "train.py", "--lr", "3", "--format", **more)
    watched = wellfit("run", "train.py", "--lr", "3", "--format", **more)
    assert (watched.stdout, watched.returncode) == (without.stdout, without.returncode)
    assert watched.stderr == without.stderr + NEVER
    told = meta(tmp_path)
    assert told["status"] == "ended" and told["argv"][1:] == ["train.py", "--lr", "3", "--format"]
    assert told["signal"] == (-without.returncode if without.returncode < 0 else None)
    assert told["exit_code"] == (without.returncode if without.returncode >= 0 else 128 - without.returncode)


def test_the_script_deletes_its_folder(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("import shutil, os\nshutil.rmtree(os.getcwd())\nprint('gone')")
    done = wellfit("run", str(work / "train.py"), cwd=work)
    assert (done.stdout, done.returncode) == ("gone\n", 0)
    assert done.stderr.startswith("wellfit: the record is gone: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "pkg.mod", "a", "b"],
        ["-m", "pkg", "a"],
        ["-m", "missing"],
        ["-c", "import sys; print(sys.argv)", "x"],
        ["folder with spaces", "x"],
        ["folder with spaces/a script.py", "-m", "x"],
        ["--", "folder with spaces/a script.py", "--", "x"],
        ["no_suffix", "x"],
    ],
)
def test_everything_python_can_run(tmp_path, words):
    code = "import sys\nprint(sys.argv, __name__, __package__, sys.path[0])\n"
    for file in ("pkg/mod.py", "pkg/__main__.py", "folder with spaces/__main__.py", "folder with spaces/a script.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(code)
    (tmp_path / "no_suffix").write_text(code)
    without = plain(sys.executable, *(words[1:] if words[0] == "--" else words), cwd=tmp_path)
    watched = wellfit("run", *words, cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (without.stdout, without.returncode)
    assert watched.stderr == without.stderr + NEVER


@pytest.mark.parametrize(
    "words", [["python", "train.py", "x"], ["sh", "-c", "python train.py; exit 6"], ["./train.sh"]]
)
def test_any_command(tmp_path, words):
    (tmp_path / "train.py").write_text("import sys, os\nprint(sys.executable, sys.argv, 'WELLFIT_RUN' in os.environ)")
    (tmp_path / "train.sh").write_text("#!/bin/sh\necho $0 $#\n")
    (tmp_path / "train.sh").chmod(0o755)
    without = plain(*words, cwd=tmp_path)
    watched = wellfit("run", *words, cwd=tmp_path)
    assert watched.stdout == without.stdout.replace("False", "True")
    assert watched.returncode == without.returncode


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["trian.py"], 'there is no script trian.py (did you mean "train.py"?)'),
        (["deep/trian.py"], 'there is no script deep/trian.py (did you mean "deep/train.py"?)'),
        (["missing.py"], "there is no script missing.py"),
        (["train"], 'there is no script or command train (did you mean "train.py"?)'),
        (["qwertz"], "there is no script or command qwertz"),
        (["torchrum"], 'there is no script or command torchrum (did you mean "torchrun"?)'),
        (
            ["--override", "lr", "0.1", "train.py"],
            "there is no script or command 0.1: a value is written --override lr=0.1",
        ),
        (["deep"], "the folder deep has no __main__.py: give the script to run"),
        (["-m"], "-m needs the name of a module after it"),
        (["binary"], "binary is neither a Python script nor a program that can be executed"),
        ([], "run needs a script or command, such as: wellfit run train.py"),
        (["--output", "nowhere/x.json", "train.py"], "--output nowhere/x.json: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(tmp_path, words, sentence):
    (tmp_path / "deep").mkdir()
    for file in ("train.py", "deep/train.py", "raises.py"):
        (tmp_path / file).write_text("print('ran')")
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    done = wellfit("run", *words, cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", f"wellfit: {sentence}\n", 2)
    assert not (tmp_path / ".wellfit").exists()


def start(cwd: Path, **more) -> subprocess.Popen:
    """A watched script that says when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "train.py"], cwd=cwd, env=ENV, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


WAITS = """
import os, signal, sys, time
def caught(number, frame):
    os.write(1, b"got %d\\n" % number)  # print could still be busy with "ready"
    time.sleep(SECONDS)
    sys.exit(40)
for number in NUMBERS:
    signal.signal(number, caught)
print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_us_reaches_the_script(tmp_path, number):
    (tmp_path / "train.py").write_text(WAITS.replace("NUMBERS", f"[{int(number)}]").replace("SECONDS", "0"))
    process = start(tmp_path, start_new_session=True)
    process.send_signal(number)
    out, said = process.communicate(timeout=20)
    assert (out, process.returncode, said) == (f"got {int(number)}\n", 40, NEVER)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("seconds", [0, 1])
def test_a_signal_to_the_whole_group_reaches_the_script_once(tmp_path, number, seconds):
    """Also a script that takes its time to end, as to write a last checkpoint."""
    (tmp_path / "train.py").write_text(WAITS.replace("NUMBERS", f"[{int(number)}]").replace("SECONDS", str(seconds)))
    process = start(tmp_path, start_new_session=True)
    os.killpg(process.pid, number)
    out, said = process.communicate(timeout=20)
    assert (out, process.returncode, said) == (f"got {int(number)}\n", 40, NEVER)


def test_signals_to_the_group_and_to_us_alone_are_told_apart_again_and_again(tmp_path):
    (tmp_path / "train.py").write_text(
        "import os, signal, time\n"
        "got = []\n"
        "def caught(number, frame):\n"
        "    got.append(number)\n"
        "    os.write(1, b'got\\n')\n"
        "signal.signal(signal.SIGUSR1, caught)\n"
        "print('ready', flush=True)\n"
        "while len(got) < 4:\n"
        "    time.sleep(0.05)\n"
    )
    process = start(tmp_path, start_new_session=True)
    for send in (os.killpg, os.kill, os.killpg, os.kill):
        send(process.pid, signal.SIGUSR1)
        assert process.stdout.readline() == "got\n"
        time.sleep(0.5)  # longer than the grace: a second one would have come
    assert process.communicate(timeout=20) == ("", NEVER)


def test_an_unhandled_signal_ends_both_alike(tmp_path):
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(30)")
    process = start(tmp_path)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert meta(tmp_path)["signal"] == signal.SIGTERM


def test_ignored_signals_stay_ignored(tmp_path):
    (tmp_path / "train.py").write_text("import signal\nprint('ready')\nprint(signal.getsignal(signal.SIGHUP).name)")
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", MAIN, "run", "train.py"],
        cwd=tmp_path, env=ENV, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "ready\nSIG_IGN\n"


def test_grandchildren_are_not_waited_for(tmp_path):
    (tmp_path / "train.py").write_text(
        "import os, subprocess\np = subprocess.Popen(['sleep', '30'], stdin=-3, stdout=-3, stderr=-3)\nprint(p.pid)"
    )
    begun = time.monotonic()
    done = wellfit("run", "train.py", cwd=tmp_path)
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0 and time.monotonic() - begun < 25


def test_a_terminal_is_passed_on(tmp_path):
    import pty

    (tmp_path / "train.py").write_text("import sys\nprint([s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)])")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "--quiet", "train.py"], cwd=tmp_path, env=ENV,
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    assert process.wait(timeout=30) == 0
    os.close(theirs)
    assert os.read(ours, 1000).strip() == b"[True, True, True]"
    os.close(ours)


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | true"])
def test_a_standard_error_that_takes_nothing(tmp_path, redirect):
    (tmp_path / "train.py").write_text("import sys\nprint('out')\nsys.exit(3)")
    program = [sys.executable, "-c", MAIN]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirect}; echo "${{PIPESTATUS[0]}}"', "sh", *program, "run", "train.py"],
        cwd=tmp_path, env=ENV, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "3"


def test_a_reader_of_standard_error_that_does_not_read(tmp_path):
    (tmp_path / "train.py").write_text("import os\nos.write(2, b'x' * 65536)\nprint('done', flush=True)")
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "train.py"], cwd=tmp_path, env=ENV, stderr=write, stdout=subprocess.PIPE
    )
    assert process.wait(timeout=30) == 0
    os.close(read)
    os.close(write)
    assert process.stdout is not None and process.stdout.read() == b"done\n"
    process.stdout.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path):
    (tmp_path / "train.py").write_text("print('out')")
    tmp_path.chmod(0o555)
    done = wellfit("run", "train.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("out\n", 0)


def test_a_file_in_the_way_of_our_folder(tmp_path):
    (tmp_path / ".wellfit").write_text("mine")
    (tmp_path / "train.py").write_text("import os\nprint(os.path.dirname(os.path.dirname(os.environ['WELLFIT_RUN'])))")
    done = wellfit("run", "train.py", cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert (done.stdout.strip(), done.returncode) == (str(tmp_path), 0)
    assert (tmp_path / ".wellfit").read_text() == "mine"


def test_runs_within_runs(tmp_path):
    (tmp_path / "inner.py").write_text("import os\nprint(os.environ['PYTHONPATH'].count('bootstrap'))")
    (tmp_path / "train.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {MAIN!r}, 'run', '--quiet', 'inner.py'])"
    )
    done = wellfit("run", "train.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("1\n", 0)


TRAINS = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(12):
    loss = ((model(torch.randn(8, 3)) - 1) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(repr(loss.item()))
"""


def test_training_is_seen_and_unchanged(tmp_path):
    (tmp_path / "train.py").write_text(TRAINS)
    without = plain(sys.executable, "train.py", cwd=tmp_path)
    watched = wellfit("run", "--format", "json", "--output", "out.json", "train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (without.stdout, 0), watched.stderr
    assert "12 steps" in watched.stderr
    assert (
        json.loads((tmp_path / "out.json").read_text())["findings"]
        == json.loads((run_folder(tmp_path) / "findings.json").read_text())["findings"]
    )
    assert (run_folder(tmp_path) / "report.html").stat().st_size > 1000
    assert not (run_folder(tmp_path) / "torch.txt").exists()


def test_torch_without_training(tmp_path):
    (tmp_path / "train.py").write_text("import torch\nprint(torch.ones(2).sum().item())")
    done = wellfit("run", "train.py", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("2.0\n", 0)
    assert done.stderr == "wellfit: saw no training: torch was imported, but nothing called backward()\n"


def test_a_note_that_became_an_error_is_told_again(tmp_path, capfd):
    made = MadeRun(tmp_path)
    made.step(loss=1.0)
    made.out.close()
    live = Live(tmp_path, Options(words=[], notes_shown=True), Voice())
    live._run = open_run(tmp_path)
    note, error = (
        Finding("detached", "FWD308", kind, "x is cut off; join it", layer="x") for kind in ("note", "error")
    )
    for finding in (note, note, error, error, note):
        live._tell(finding)
    live._last_words([error], "")
    said = capfd.readouterr().err
    assert (said.count("note FWD308 detached: x"), said.count("error FWD308 detached: x")) == (1, 1)


def test_what_was_told_as_a_note_is_told_in_full_when_it_ends_as_an_error(tmp_path, capfd):
    made = MadeRun(tmp_path)
    made.step(loss=1.0)
    made.out.close()
    live = Live(tmp_path, Options(words=[], notes_shown=True), Voice())
    live._run = open_run(tmp_path)
    live._tell(Finding("detached", "FWD308", "note", "x is cut off; join it", layer="x"))
    live._last_words([Finding("detached", "FWD308", "error", "x never learned; join it", layer="x")], "")
    assert "x never learned; join it" in capfd.readouterr().err


def test_overrides_of_a_program_that_never_trains(tmp_path):
    done = wellfit("run", "--override", "lr=0.1", "-c", "print(1)", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("1\n", 0)
    assert done.stderr == NEVER.replace("imported", "imported; the overrides found nothing to change")
    listed = wellfit("runs", cwd=tmp_path).stdout
    assert listed.endswith("  exit 0  no training  --override lr=0.1 -c 'print(1)'\n")
