"""The run's folder: where it lies, its run.json, and the environment that leads the probe to it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.launch.command import Command

HOME = ".wellfit"
BOOTSTRAP = Path(__file__).resolve().parent.parent / "probe" / "bootstrap"


def make_folder(label: str, cwd: Path) -> Path:
    """A new folder for a run: below `.wellfit` here, or in the temporary folder if nothing can be written here.

    Raises:
        WellfitError: neither can be written.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{secrets.token_hex(2)}"
    home = cwd / HOME
    try:
        home.mkdir(exist_ok=True)
        if not (home / ".gitignore").exists():
            (home / ".gitignore").write_text("*\n", encoding="ascii")
        (home / name).mkdir()
    except OSError as error:
        try:
            folder = Path(tempfile.mkdtemp(prefix="wellfit-")) / name
            folder.mkdir()
        except OSError:
            raise WellfitError(
                f"no folder for the record can be made, neither in {home} nor elsewhere ({error})"
            ) from None
        return folder
    return home / name


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
    """

    def __init__(self, folder: Path, command: Command, words: list[str], cwd: Path, version: str) -> None:
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


def write_text(file: Path, text: str) -> OSError | None:
    """Write a whole file through a temporary one and a rename; what went wrong, or None."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(beside, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        return error
    return None
