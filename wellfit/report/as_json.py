"""Findings as JSON: the format that other programs read. `schema.json` beside this file describes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from wellfit.finding import Finding
from wellfit.report.account import account_of, verdict_of
from wellfit.report.amounts import strict

if TYPE_CHECKING:
    from wellfit.record import Run

VERSION = 1
"""Grows when a field changes its meaning or goes; new fields may come without it."""


def to_json(findings: Sequence[Finding], run: Run) -> dict[str, Any]:
    """The findings of a run as an object that is strict JSON.

    Args:
        findings: of `diagnose`, most important first.
        run: the run they are about.

    Returns:
        an object as `schema.json` describes it. Files are absolute; names and messages are as the rule gave them (JSON
        escapes them); numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity".
    """
    account = account_of(run)
    about = {
        "id": account.run_id,
        "command": account.command,
        "folder": account.folder,
        "steps": account.steps,
        "watched": account.watched,
        "processes": account.processes,
        "exit_code": account.exit_code,
        "switched_off": account.switched_off,
        "overrides": list(account.overrides),
        "cost": {"seconds": account.seconds, "probe_seconds": account.cost_seconds, "share": account.cost_share},
    }
    if account.trials:
        about["trials"] = list(account.trials)
    told = [finding_json(finding) for finding in findings]
    whole = {"version": VERSION, "verdict": verdict_of(findings, account), "run": about, "findings": told}
    result: dict[str, Any] = strict(whole)
    return result


def finding_json(finding: Finding) -> dict[str, Any]:
    """One finding as an object that is strict JSON."""
    location = finding.location
    result: dict[str, Any] = strict(
        {
            "rule": finding.rule,
            "code": finding.code,
            "severity": finding.severity,
            "layer": finding.layer,
            "file": location.file if location else None,
            "line": location.line if location else None,
            "step": finding.step,
            "message": finding.message,
            "evidence": finding.evidence,
            "consequences": finding.consequences,
            "fixes": [{"title": fix.title, "override": fix.override, "safe": fix.safe} for fix in finding.fixes],
        }
    )
    return result


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `to_json` gives."""
    text = resources.files("wellfit.report").joinpath("schema.json").read_text(encoding="utf-8")
    result: dict[str, Any] = json.loads(text)
    return result
