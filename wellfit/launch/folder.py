"""A run's run.json, and the environment that leads the probe to its folder."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.launch.command import Command
from wellfit.record.writing import write_text

BOOTSTRAP = Path(__file__).resolve().parent.parent / "probe" / "bootstrap"


def environment(run: Path, options: Mapping[str, Any], base: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, and what leads the probe into every Python process of the command.

    Args:
        run: the run's folder.
        options: for the probe; JSON.
        base: the environment to start from.

    Raises:
        WellfitError: wellfit lies in a folder whose name PYTHONPATH cannot hold.
    """
    bootstrap = str(BOOTSTRAP)
    if os.pathsep in bootstrap:
        raise WellfitError(
            f'wellfit is installed in {BOOTSTRAP.parent.parent}, but PYTHONPATH cannot hold a "{os.pathsep}"'
        )
    others = [entry for entry in base.get("PYTHONPATH", "").split(os.pathsep) if entry != bootstrap]
    inherited = os.pathsep.join(others)
    return {
        **base,
        "PYTHONPATH": bootstrap + (os.pathsep + inherited if inherited else ""),
        "WELLFIT_RUN": str(run),
        "WELLFIT_OPTIONS": json.dumps(dict(options)),
    }


class RunFile:
    """run.json of a run.

    Args:
        folder: the run's folder.
        command: what is run.
        words: what the user typed.
        version: of wellfit.
        overrides: what is changed of the run, as JSON (see `overrides.catalogue.as_json`).
        typed: the same as typed after `--override`.
    """

    def __init__(
        self,
        folder: Path,
        command: Command,
        words: list[str],
        cwd: Path,
        version: str,
        overrides: list[dict[str, Any]],
        typed: Sequence[str],
    ) -> None:
        self.file = folder / "run.json"
        self._begun = time.monotonic()
        self.fields: dict[str, Any] = {
            "version": 1,
            "id": folder.name,
            "command": shlex.join(words),
            "argv": list(command.argv),
            "cwd": str(cwd),
            "started": time.time(),
            "ended": None,
            "seconds": None,
            "exit_code": None,
            "signal": None,
            "status": "running",
            "python": command.argv[0],
            "wellfit": version,
            "host_pid": os.getpid(),
            "overrides": overrides,
            "typed_overrides": list(typed),
        }

    def write(self) -> bool:
        """Write it; False if the folder is gone or full."""
        return write_text(self.file, json.dumps(self.fields, indent=1) + "\n") is None

    def end(self, status: int) -> None:
        """Note how the program ended: its exit code, or -n for signal n."""
        self.fields |= {
            "ended": time.time(),
            "seconds": time.monotonic() - self._begun,
            "exit_code": status if status >= 0 else 128 - status,
            "signal": -status if status < 0 else None,
            "status": "ended",
        }
