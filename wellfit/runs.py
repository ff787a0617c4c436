"""The runs that were recorded below a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError


def runs_text(folder: Path) -> str:
    """One line for each run of a folder, the latest last.

    Raises:
        WellfitError: there is no such folder.
    """
    if not folder.is_dir():
        raise WellfitError(f"{folder} is not a folder")
    from wellfit.record.store import list_runs
    from wellfit.report.safe import printable

    lines = []
    for run in list_runs(folder):
        meta = _object(run / "run.json")
        findings = _object(run / "findings.json").get("findings")
        command = printable(meta.get("command", ""), 100)
        lines.append(f"{printable(run.name, 80)}  {_ended(meta):<12}  {_told(findings):<20}  {command}")
    return "".join(line.rstrip() + "\n" for line in lines) or "no runs here; start one with `wellfit run train.py`\n"


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
