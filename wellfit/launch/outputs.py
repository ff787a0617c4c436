"""Findings in the formats that other programs read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wellfit.finding import Finding
from wellfit.record.writing import write_text

if TYPE_CHECKING:
    from wellfit.record import Run


def formatted(kind: str, findings: Sequence[Finding], run: Run, notes_shown: bool = False) -> str:
    """The findings of a run as text, json, sarif or github."""
    from wellfit import report

    if kind == "json":
        return json.dumps(report.to_json(findings, run), indent=1, allow_nan=False) + "\n"
    if kind == "sarif":
        return json.dumps(report.to_sarif(findings, run), indent=1, allow_nan=False) + "\n"
    if kind == "github":
        return report.to_github(findings, run)
    told = report.findings_text(findings, color=False, width=100, notes_shown=notes_shown, limit=None)
    return (told + "\n" if told else "") + report.summary_text(findings, run, color=False, notes_shown=notes_shown)


def deliver(text: str, output: Path | None) -> str:
    """Write text to a file, or to standard output; what went wrong in one sentence, or an empty text."""
    if output is not None and output.exists() and not output.is_file():  # /dev/stderr, a named pipe
        try:
            output.write_bytes(text.encode("utf-8", "replace"))
        except OSError as error:
            return f"{output} could not be written: {error.strerror}"
        return ""
    if output is not None:
        trouble = write_text(output, text)
        return f"{output} could not be written: {trouble.strerror}" if trouble else ""
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:
        return f"the findings could not be written to standard output: {error.strerror}"
    return ""
