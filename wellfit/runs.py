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
        command = printable(" ".join([str(meta.get("command", "")), *_overrides(meta.get("overrides"))]), 160)
        lines.append(f"{printable(run.name, 80)}  {_ended(meta):<12}  {_told(findings, meta):<20}  {command}")
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
    code = meta.get("exit_code")
    return "ended" if code is None else f"exit {code}"  # `wellfit.watch()` ends before its program


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


def _overrides(entries: object) -> list[str]:
    """What was changed of the run, as it would be typed."""
    words = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            values = [f"{name}:{value}" for name, value in entry.items() if name != "override"]
            words.append(f"--override {entry.get('override')}" + ("=" + ",".join(values) if values else ""))
    return words


def _told(findings: object, meta: dict[str, Any]) -> str:
    """What was found; a run that did not end well is not called healthy."""
    if not isinstance(findings, list):
        return ""
    errors = sum(isinstance(finding, dict) and finding.get("severity") == "error" for finding in findings)
    notes = len(findings) - errors
    words = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((errors, "error"), (notes, "note")) if count
    ]
    well = meta.get("exit_code") in (0, None) and not meta.get("signal")
    return ", ".join(words) or ("healthy" if well else "nothing found")
