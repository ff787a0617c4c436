"""What the rules say of a slimming: asked of the proof in its report, which may have been saved long ago."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wellfit.config import Asked
from wellfit.diagnose import Diagnosis, diagnose_proof
from wellfit.errors import WellfitError
from wellfit.finding import Finding
from wellfit.proof import Proof
from wellfit.report.as_json import finding_json
from wellfit.report.safe import printable
from wellfit.report.text import findings_text

FORMATS = ("text", "json")
_WIDTH = 110


def judged(proof: Proof, asked: Asked | None = None) -> Diagnosis:
    """All that the rules find, errors first.

    Args:
        proof: of a report.
        asked: which rules; None for all, as they are.

    Raises:
        WellfitError: a rule or a threshold is unknown.
    """
    from wellfit.catalogue import names_of, rules

    asked = asked or Asked()
    problems: list[str] = []
    diagnosis = diagnose_proof(proof, rules(asked.select, asked.thresholds, problems), names_of(asked.ignore))
    diagnosis.problems[:0] = problems
    return diagnosis


def told(findings: Sequence[Finding], *, notes_shown: bool = True) -> str:
    """For the terminal, behind the tables: a blank line before each; empty if there is none."""
    text = findings_text(findings, color=False, width=_WIDTH, notes_shown=notes_shown, limit=None)
    return f"\n{text}" if text else ""


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """For a report: each as docs/slim/proof.md describes it."""
    return [finding_json(finding) for finding in findings]


def report_text(path: Path, findings: Sequence[Finding], format: str, *, notes_shown: bool) -> str:
    """What `wellfit diagnose REPORT.json` says.

    Raises:
        WellfitError: the format is one of runs only.
    """
    if format not in FORMATS:
        raise WellfitError(f"--format {format} is for runs: the report of a slimming is told as {' or '.join(FORMATS)}")
    if format == "json":
        return json.dumps({"version": 1, "report": str(path), "findings": as_json(findings)}, indent=1) + "\n"
    errors = sum(finding.severity == "error" for finding in findings)
    notes = len(findings) - errors
    counts = [_count(errors, "error")] * bool(errors) + [_count(notes, "note")] * bool(notes)
    hidden = " (--show-notes)" if notes and not notes_shown else ""
    verdict = f"{', '.join(counts)}{hidden}" if counts else "nothing wrong was found"
    return f"{told(findings, notes_shown=notes_shown)}\nwellfit: {printable(str(path), 300)}: {verdict}\n".lstrip("\n")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
