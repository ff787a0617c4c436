"""Run a script with the probe inside, every step watched, and read what it recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from wellfit.launch.folder import environment
from wellfit.record import Record, Run, open_run

CLEAN = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WELLFIT"))},
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
}
HEAD = "import os, sys\nimport torch, torch.nn.functional as F\nfrom torch import nn\ntorch.set_num_threads(1)\n"
SECONDS = 300


@dataclass(frozen=True)
class Probed:
    """How a watched script ended, and its run."""

    script: Path
    code: int
    out: str
    err: str
    run: Run

    @property
    def record(self) -> Record:
        assert len(self.run.records) == 1, self.err
        return self.run.records[0]

    def line(self, text: str) -> int:
        """The number of the one line of the script that contains a text."""
        lines = [n for n, line in enumerate(self.script.read_text().splitlines(), 1) if text in line]
        assert len(lines) == 1, (text, lines)
        return lines[0]

    def at(self, location: object, text: str) -> bool:
        """Whether a location of the record is the line of the script that contains a text."""
        return location is not None and (location.file, location.line) == (str(self.script), self.line(text))


def plain(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    """Run Python unwatched."""
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=CLEAN, text=True, capture_output=True, timeout=SECONDS
    )


def probed(words: list[str], folder: Path, **options: object) -> Probed:
    """Run Python with the probe inside, but without `wellfit run` around it.

    Args:
        words: a script and its arguments.
        folder: where to run, and below which to record.
        options: for the probe; each step is watched unless they say otherwise.
    """
    run = folder / f"run{len(list(folder.glob('run*')))}"
    run.mkdir(parents=True)
    env = environment(run, {"overhead": 0.5, "quota": 100_000_000, "every": 1, **options}, CLEAN)
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, text=True, capture_output=True, timeout=SECONDS
    )
    return Probed(Path(words[0]), done.returncode, done.stdout, done.stderr, open_run(run))


def written(folder: Path, text: str, name: str = "script.py") -> Path:
    """A script in a folder, with the imports every training script has."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(HEAD + textwrap.dedent(text))
    return script


@dataclass(frozen=True)
class Part:
    """One of many scripts that ran as forks of one process: how it ended, and its own record if it has one."""

    script: Path
    code: int
    out: str
    err: str
    records: list[Record]

    @property
    def record(self) -> Record:
        assert len(self.records) == 1, self.err
        return self.records[0]

    line = Probed.line
    at = Probed.at


_FORK = """
import atexit, gc, importlib, json, runpy
importlib.import_module("torch._dynamo")  # as the first optimizer of each child would, which takes seconds
gc.freeze()
for script in sys.argv[1:]:
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        for number, end in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{script}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = [script]
        runpy.run_path(script, run_name="__main__")
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(0)  # taking all of torch apart would take a second for each
    print(json.dumps([child, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]))
"""


def many(folder: Path, bodies: dict[str, str], watched: bool = True, **options: object) -> dict[str, Part]:
    """Run many scripts in one go: each in a fork of a process that has imported torch.

    Args:
        bodies: what follows the usual imports in each script, by name.
        watched: with the probe inside; each fork then has a record of its own.
        options: as for `probed`.
    """
    scripts = [written(folder, body, f"part{number}.py") for number, body in enumerate(bodies.values())]
    words = [str(written(folder, _FORK, "forks.py")), *map(str, scripts)]
    done = probed(words, folder, **options) if watched else None
    bare = None if watched else plain(words, folder)
    out = done.out if done else bare.stdout
    assert (done.code if done else bare.returncode) == 0, done.err if done else bare.stderr
    records = done.run.records if done else []
    parts = {}
    for name, script, line in zip(bodies, scripts, out.splitlines(), strict=True):
        pid, code = json.loads(line)
        texts = [Path(f"{script}.{end}").read_text() for end in ("out", "err")]
        parts[name] = Part(script, code, *texts, [record for record in records if record.pid == pid])
    return parts
