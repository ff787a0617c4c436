"""Runs many small scripts quickly: one process imports torch, and forks for each.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

from overridden import ENV, Ran

from wellfit.overrides.catalogue import as_json, parse
from wellfit.record import Run, open_run
from wellfit.record.writing import write_json
from wellfit.testing import SCRIPT, script_of


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
        script_folder = _next(folder)
        code = self._fork(script_folder / "train.py", script, script_folder, as_json(parse(overrides)))
        records = open_run(script_folder).records
        out, err = ((script_folder / name).read_text() for name in ("out", "err"))
        return Ran(code, out, err, records[0] if records else None)

    def plain(self, folder: Path, script: str) -> list[str]:
        """What a script prints without wellfit."""
        script_folder = _next(folder)
        code = self._fork(script_folder / "train.py", script, None)
        assert code == 0, (script_folder / "err").read_text()
        return (script_folder / "out").read_text().splitlines()

    def experiment(self, function: Callable[[], None], folder: Path, trials: Sequence[str] = ()) -> Run:
        """As `wellfit.testing.run_experiment`, with these trials; those that do not fit are left out."""
        return self.checked(script_of(function), folder, trials)

    def cured(self, function: Callable[[], None], folder: Path, override: str) -> Run | None:
        """The same under an override; None where it does not fit, or the script then fails."""
        run_folder = folder / ".wellfit" / "run"
        run_folder.mkdir(parents=True)
        code = self._fork(folder / SCRIPT, script_of(function), run_folder, as_json(parse([override])), every=0)
        return open_run(run_folder) if code == 0 else None

    def checked(self, script: str, folder: Path, trials: Sequence[str] = (), steps: int = 300) -> Run:
        """As `wellfit check` makes a run and its trials, with output in `err`; without trials as `wellfit run`."""
        run_folder = folder / ".wellfit" / "run"
        run_folder.mkdir(parents=True)
        frame = ["seed=0,keep:on", f"stop-after={steps}"] if trials else []
        code = self._fork(folder / SCRIPT, script, run_folder, as_json(parse(frame)), every=0)
        assert code == 0, (folder / "err").read_text()
        if trials:
            noted = [self._trial(script, folder, trial, frame) for trial in trials]
            meta = {"version": 1, "id": "run", "status": "ended", "started": 0.0, "exit_code": 0}
            write_json(run_folder / "run.json", {**meta, "check": {"trials": noted}})
        return open_run(run_folder)

    def _trial(self, script: str, folder: Path, trial: str, frame: Sequence[str]) -> dict[str, Any]:
        name = trial.partition("=")[0]
        place = folder / ".wellfit" / "run" / "trials" / name
        place.mkdir(parents=True)
        code = self._fork(folder / SCRIPT, script, place, as_json(parse([*frame, trial])), every=0)
        write_json(place / "run.json", {"version": 1, "status": "ended", "exit_code": code})
        return {"override": trial, "folder": name if code == 0 else None}

    def _fork(
        self,
        file: Path,
        script: str,
        run_folder: Path | None,
        entries: Sequence[dict[str, Any]] = (),
        every: int = 1,
    ) -> int:
        """Run a script in the folder of its file; gives the exit code.

        Args:
            run_folder: where to record; None runs it without the probe.
            entries: overrides as JSON.
            every: the probe looks at each so-manieth step; 0 leaves it to the budget.
        """
        file.write_text(dedent(script))
        if run_folder is not None:
            write_json(run_folder / "run.json", {"version": 1, "id": "run", "status": "running", "started": 0.0})
        assert self._server.stdin is not None and self._server.stdout is not None
        recorded = None if run_folder is None else str(run_folder)
        self._server.stdin.write(json.dumps([str(file), recorded, list(entries), every]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def _next(folder: Path) -> Path:
    made = folder / f"run{len(list(folder.glob('run*')))}"
    made.mkdir()
    return made


def _serve() -> None:
    import torch._dynamo  # the first optimizer would import it, which takes seconds
    import torch.utils.data  # noqa: F401

    import wellfit.overrides.points  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _end(_train, *json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _end(function: Any, *args: Any) -> None:
    """Call a function, and end this process with what its end means, as Python would, but for the slow clearing up."""
    code: Any = 1
    try:
        function(*args)
        code = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        code = 1 if isinstance(error.code, str) else error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


def _train(file: str, run_folder: str | None, entries: list[dict[str, Any]], every: int) -> None:
    """The script's part of a run; an exception ends this process as it would end the script's."""
    folder = os.path.dirname(file)
    os.chdir(folder)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(folder, name), os.O_CREAT | os.O_WRONLY), descriptor)
    sys.path[0], sys.argv = folder, [file]
    if run_folder is not None:
        _probe(run_folder, entries, every)
    runpy.run_path(file, run_name="__main__")


def _probe(run_folder: str, entries: list[dict[str, Any]], every: int) -> None:
    import torch

    from wellfit.overrides.points import install
    from wellfit.probe.attach import attach

    attachment = attach(torch, {"run": run_folder, "overhead": 1.0, "quota": 100_000_000, "every": every})
    if entries:
        install(entries, attachment)


if __name__ == "__main__":
    _serve()
