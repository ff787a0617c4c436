"""Findings as SARIF 2.1.0, for code-scanning pages and editors.

Source of the format: OASIS, *Static Analysis Results Interchange Format (SARIF) Version 2.1.0*, 2020.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wellfit.finding import Finding
from wellfit.report.account import account_of
from wellfit.report.amounts import strict
from wellfit.report.safe import printable
from wellfit.report.text import fix_text

if TYPE_CHECKING:
    from wellfit.record import Run

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_sarif(findings: Sequence[Finding], run: Run) -> dict[str, Any]:
    """The findings of a run as a SARIF log with one run in it.

    Args:
        findings: of `diagnose`, most important first.
        run: the run they are about.

    Returns:
        an object that is strict JSON. Levels are "error" and "note"; files inside the current folder are relative to
        `%SRCROOT%`, others are file URIs; evidence, fixes and consequences are properties of each result.
    """
    account = account_of(run)
    rules = _rules(findings)
    order = {rule["id"]: index for index, rule in enumerate(rules)}
    invocation: dict[str, Any] = {"commandLine": account.command, "executionSuccessful": account.exit_code in (0, None)}
    if account.exit_code is not None:
        invocation["exitCode"] = account.exit_code
    noted = {"overrides": list(account.overrides), "trials": list(account.trials)}
    if any(noted.values()):
        invocation["properties"] = {name: lines for name, lines in noted.items() if lines}
    whole = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "wellfit", "rules": rules}},
                "automationDetails": {"id": f"wellfit/{account.run_id}"},
                "originalUriBaseIds": {"%SRCROOT%": {"uri": Path.cwd().as_uri() + "/"}},
                "invocations": [invocation],
                "results": [_result(finding, order[printable(finding.code)]) for finding in findings],
            }
        ],
    }
    result: dict[str, Any] = strict(whole)
    return result


def _rules(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """What SARIF calls reporting descriptors: one for each rule that spoke, in the order of the findings."""
    rules: dict[str, dict[str, Any]] = {}
    for finding in findings:
        code, name = printable(finding.code), printable(finding.rule)
        fixes = "; ".join(fix_text(fix) for fix in finding.fixes)
        rules.setdefault(
            code,
            {
                "id": code,
                "name": name,
                "shortDescription": {"text": name.replace("-", " ")},
                "help": {"text": (f"Fixes: {fixes}. " if fixes else "") + f"Read more: wellfit rule {name}"},
                "defaultConfiguration": {"level": _level(finding)},
            },
        )
    return list(rules.values())


def _result(finding: Finding, index: int) -> dict[str, Any]:
    layer = printable(finding.layer) if finding.layer else None
    place: dict[str, Any] = {}
    if finding.location is not None:
        place["physicalLocation"] = {
            "artifactLocation": _artifact(finding.location.file),
            "region": {"startLine": max(1, finding.location.line)},
        }
    if layer:
        place["logicalLocations"] = [{"fullyQualifiedName": layer, "kind": "layer"}]
    file = Path(finding.location.file).name if finding.location else ""
    fingerprint = hashlib.sha256("\0".join([finding.rule, layer or "", printable(file)]).encode("utf-8", "replace"))
    return {
        "ruleId": printable(finding.code),
        "ruleIndex": index,
        "level": _level(finding),
        "message": {"text": printable(finding.message)},
        "locations": [place] if place else [],
        "partialFingerprints": {"wellfit/v1": fingerprint.hexdigest()[:32]},
        "properties": {
            "evidence": finding.evidence,
            "step": finding.step,
            "consequences": finding.consequences,
            "fixes": [{"title": fix.title, "override": fix.override, "safe": fix.safe} for fix in finding.fixes],
        },
    }


def _level(finding: Finding) -> str:
    return "error" if finding.severity == "error" else "note"


def _artifact(file: str) -> dict[str, str]:
    """A file as SARIF names it: relative to the current folder where inside it, else a file URI."""
    path = Path(file)
    try:
        inside = path.resolve().relative_to(Path.cwd().resolve())
        return {"uri": _quoted(inside.as_posix()), "uriBaseId": "%SRCROOT%"}
    except (OSError, ValueError, RuntimeError):
        posix = _quoted(path.as_posix())
        return {"uri": f"file://{posix}" if posix.startswith("/") else posix}


def _quoted(path: str) -> str:
    return quote(path.encode("utf-8", "surrogateescape"))
