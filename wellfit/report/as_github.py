"""Findings as GitHub workflow commands: annotations beside the user's lines in a pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wellfit.finding import Finding
from wellfit.report.account import account_of
from wellfit.report.safe import github_message, github_property
from wellfit.report.source import shown_path
from wellfit.report.text import fix_text

if TYPE_CHECKING:
    from wellfit.record import Run

_COMMANDS = {"error": "error", "note": "notice"}


def to_github(findings: Sequence[Finding], run: Run) -> str:
    """One workflow command a line for each finding (`::error file=train.py,line=18,title=...::...`).

    Args:
        findings: of `diagnose`, most important first.
        run: the run they are about.

    Returns:
        the lines, each ending in a newline; empty if there are no findings. Before findings of a run that was changed
        by overrides stands a notice that says so: they are not the script's alone. What the runs of `wellfit check`
        showed is told by a notice each.
    """
    account = account_of(run)
    changed = account.overrides if findings else ()
    notices = [f"::notice title=wellfit::{github_message(f'found under {override}')}\n" for override in changed]
    notices += [f"::notice title=wellfit check::{github_message(line)}\n" for line in account.trials]
    return "".join([*notices, *(f"{_command(finding)}\n" for finding in findings)])


def _command(finding: Finding) -> str:
    properties = []
    if finding.location is not None:
        file = github_property(shown_path(finding.location.file).replace("\\", "/"))
        properties += [f"file={file}", f"line={finding.location.line}"]
    properties.append(f"title={github_property(f'{finding.code} {finding.rule}')}")
    message = f"{finding.layer}: {finding.message}" if finding.layer else finding.message
    cures = "; ".join(fix_text(fix) for fix in finding.fixes)
    text = github_message(message + (f" Fix: {cures}." if cures else ""))
    return f"::{_COMMANDS.get(finding.severity, 'notice')} {','.join(properties)}::{text}"
