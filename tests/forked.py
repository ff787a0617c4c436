"""Runs many small scripts under overrides quickly: one process imports torch, and forks for each.

The script runs in the fork as `wellfit run` would let it run, from the moment when torch has been imported; the
parent's part (summary, live findings) is left out.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

from overridden import ENV, Ran

from wellfit.overrides.catalogue import as_json, parse
from wellfit.record import open_run
from wellfit.record.writing import write_json


class Forks:
    """The process that imports torch once; use as a context manager."""

    def __enter__(self) -> Forks:
        self._server = subprocess.Popen(
            [sys.executable, __file__], env={**ENV, "PYTHONPATH": os.pathsep.join(sys.path)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def run(self, folder: Path, script: str, *overrides: str) -> Ran:
        """As `overridden.run`."""
        folder, code = self._fork(folder, script, as_json(parse(overrides)))
        records = open_run(folder).records
        out, err = ((folder / name).read_text() for name in ("out", "err"))
        return Ran(code, out, err, records[0] if records else None)

    def plain(self, folder: Path, script: str) -> list[str]:
        """What a script prints without wellfit."""
        folder, code = self._fork(folder, script, None)
        assert code == 0, (folder / "err").read_text()
        return (folder / "out").read_text().splitlines()

    def _fork(self, folder: Path, script: str, entries: list[dict[str, Any]] | None) -> tuple[Path, int]:
        """Run a script in a folder of its own; gives that and the exit code.

        Args:
            entries: overrides as JSON; None runs it without the probe.
        """
        folder = folder / f"run{len(list(folder.glob('run*')))}"
        folder.mkdir()
        (folder / "train.py").write_text(dedent(script))
        write_json(folder / "run.json", {"version": 1, "id": "run", "status": "running", "started": 0.0})
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps([str(folder), entries]) + "\n")
        self._server.stdin.flush()
        return folder, int(self._server.stdout.readline())


def _serve() -> None:
    import torch._dynamo  # the first optimizer would import it, which takes seconds
    import torch.utils.data  # noqa: F401

    import wellfit.overrides.points  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        folder, entries = json.loads(line)
        child = os.fork()
        if child == 0:
            _end(_train, folder, entries)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _end(function: Any, *args: Any) -> None:
    """Call a function, and end this process with what its end means, as Python would, but for the slow clearing up."""
    code: Any = 1
    try:
        function(*args)
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


def _train(folder: str, entries: list[dict[str, Any]] | None) -> None:
    """The script's part of a run; an exception ends this process as it would end the script's."""
    os.chdir(folder)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY), descriptor)
    sys.path[0], sys.argv = folder, ["train.py"]
    if entries is not None:
        _probe(folder, entries)
    runpy.run_path(os.path.join(folder, "train.py"), run_name="__main__")


def _probe(folder: str, entries: list[dict[str, Any]]) -> None:
    import torch

    from wellfit.overrides.points import install
    from wellfit.probe.attach import attach

    attachment = attach(torch, {"run": folder, "overhead": 1.0, "quota": 100_000_000, "every": 1})
    if entries:
        install(entries, attachment)


if __name__ == "__main__":
    _serve()
