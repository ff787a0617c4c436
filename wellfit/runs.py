"""The runs that were recorded below a folder."""

from __future__ import annotations

import json
import os
import shlex
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

    rows = []
    for run in list_runs(folder):
        meta = _object(run / "run.json")
        rows.append((printable(run.name, 80), _ended(meta), _told(run, meta), printable(_command(meta), 160)))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = ["  ".join([*(f"{word:<{width}}" for word, width in zip(row, widths)), row[3]]) for row in rows]
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


def _command(meta: dict[str, Any]) -> str:
    """What was typed after `wellfit run`, or `check` with what was typed after that."""
    typed = meta.get("typed_overrides")
    changes = [f"--override {shlex.quote(str(text))}" for text in typed] if isinstance(typed, list) else []
    verb = ["check"] if isinstance(meta.get("check"), dict) else []
    return " ".join([*verb, *changes, str(meta.get("command", ""))])


def _told(run: Path, meta: dict[str, Any]) -> str:
    """What was found; a run that did not end well, or was hardly seen, is not called healthy."""
    about = _object(run / "findings.json")
    findings = about.get("findings")
    if not isinstance(findings, list):
        if _ended(meta) == "running":
            return ""
        return "not judged" if next(run.glob("*.wfr"), None) else "no training"
    errors = sum(isinstance(finding, dict) and finding.get("severity") == "error" for finding in findings)
    notes = len(findings) - errors
    words = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((errors, "error"), (notes, "note")) if count
    ]
    verdict = about.get("verdict")
    none = str(verdict).replace("-", " ") if verdict in ("healthy", "too-short", "no-training") else "nothing found"
    return ", ".join(words) or none
