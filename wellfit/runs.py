"""The runs that were recorded below a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean

if TYPE_CHECKING:
    from wellfit.record import Run

_HOME = ".wellfit"


def find_run(name: str) -> Run:
    """The run of a folder, of a name in `.wellfit`, or `last`.

    Raises:
        WellfitError: there is none.
    """
    from wellfit.record import open_run

    if name == "last" and not os.path.isdir(name):
        folders = _folders(Path("."))
        if not folders:
            raise WellfitError(f"there is no run in {Path(_HOME).absolute()}: start one with `wellfit run train.py`")
        return open_run(folders[-1])
    for folder in (Path(name), Path(_HOME, name)):
        if folder.is_dir():
            return open_run(folder)
    known = [folder.name for folder in _folders(Path("."))]
    raise WellfitError(f"there is no run {name}{did_you_mean(name, known)}; `wellfit runs` lists them")


def runs_text(folder: Path) -> str:
    """One line for each run below a folder, the latest last.

    Raises:
        WellfitError: there is no such folder.
    """
    if not folder.is_dir():
        raise WellfitError(f"{folder} is not a folder")
    from wellfit.report.safe import printable

    lines = []
    for run in _folders(folder):
        meta = _object(run / "run.json")
        findings = _object(run / "findings.json").get("findings")
        command = printable(meta.get("command", ""), 100)
        lines.append(f"{printable(run.name, 80)}  {_ended(meta):<12}  {_told(findings):<20}  {command}")
    return "".join(line.rstrip() + "\n" for line in lines) or "no runs here; start one with `wellfit run train.py`\n"


def _folders(folder: Path) -> list[Path]:
    """Folders of runs, oldest first (their names begin with the time)."""
    home = folder / _HOME if (folder / _HOME).is_dir() else folder
    return sorted(entry.parent for entry in home.glob("*/run.json"))


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _ended(meta: dict[str, Any]) -> str:
    if meta.get("status") != "ended":
        return "running" if _alive(meta.get("host_pid")) else "cut short"
    if meta.get("signal"):
        return f"signal {meta['signal']}"
    return f"exit {meta.get('exit_code')}"


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _told(findings: object) -> str:
    if not isinstance(findings, list):
        return ""
    errors = sum(isinstance(finding, dict) and finding.get("severity") == "error" for finding in findings)
    notes = len(findings) - errors
    words = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((errors, "error"), (notes, "note")) if count
    ]
    return ", ".join(words) or "healthy"
