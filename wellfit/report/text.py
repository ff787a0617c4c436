"""Findings for the terminal: one finding as it becomes sure, and the summary at the end."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wellfit.finding import Finding, Fix
from wellfit.report.account import Account, account_of, verdict_of
from wellfit.report.amounts import evidence_pairs, number_text
from wellfit.report.safe import printable
from wellfit.report.source import excerpt, place

if TYPE_CHECKING:
    from wellfit.record import Run

SHOWN_FINDINGS = 5
"""So many findings are told in full; a longer list is read by nobody, and the page has them all."""

_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "yellow": "1;33", "blue": "34", "green": "1;32", "cyan": "36"}


def finding_text(finding: Finding, color: bool, width: int) -> str:
    """One finding, for printing while the program runs.

    Args:
        finding: what a rule said.
        color: whether ANSI colours may be used.
        width: columns of the terminal; at least 40 are used.

    Returns:
        several lines, each ending in a newline: what, where, the user's line, the evidence, the cure.
    """
    width = max(40, width)
    lines = [_title(finding, color)]
    gutter = len(str(finding.location.line)) if finding.location else 1
    lines += _source_lines(finding, color, width, gutter)
    margin = " " * (gutter + 1)
    wrapped = textwrap.wrap(
        printable(finding.message), width, initial_indent=margin, subsequent_indent=margin, break_long_words=False
    )
    lines += [_code_marks(line, color) for line in wrapped]
    for label, text in _facts(finding):
        lines += _labelled(label, text, color, width, margin)
    return "\n".join(lines) + "\n"


def findings_text(
    findings: Sequence[Finding], color: bool, width: int, notes_shown: bool = False, limit: int | None = SHOWN_FINDINGS
) -> str:
    """The findings of a finished run in full, a blank line between them.

    Args:
        findings: of `diagnose`, most important first.
        color, width: as for `finding_text`.
        notes_shown: whether notes are told as well as errors.
        limit: at most so many; None for all of them.

    Returns:
        the text; empty if there is nothing to tell.
    """
    told = [finding for finding in findings if notes_shown or finding.severity == "error"]
    shown = told if limit is None else told[:limit]
    text = "\n".join(finding_text(finding, color, width) for finding in shown)
    if len(shown) < len(told):
        left_out = f"and {_count(len(told) - len(shown), 'finding')} more"
        text += f"\n{_paint('dim', left_out, color)}\n"
    return text


def summary_text(findings: Sequence[Finding], run: Run, color: bool, notes_shown: bool = False) -> str:
    """The last words on a run: verdict, what was watched and what that cost, where the report lies.

    Args:
        findings: all findings of the run.
        run: the run they are about.
        color: whether ANSI colours may be used.
        notes_shown: whether notes are listed as well as errors.

    Returns:
        a few lines, each ending in a newline.
    """
    account = account_of(run)
    told = [finding for finding in findings if notes_shown or finding.severity == "error"]
    lines = [f"{_paint('bold', 'wellfit', color)}: {_verdict(findings, account, color, notes_shown)}"]
    lines += _listed(told[:SHOWN_FINDINGS], color)
    if len(told) > SHOWN_FINDINGS:
        lines.append(_paint("dim", f"  and {len(told) - SHOWN_FINDINGS} more, in the report", color))
    lines += [f"  {line}" for line in _told_apart(told)]
    if account.switched_off:
        lines.append(f"  {_paint('yellow', 'the probe switched itself off', color)}: {account.switched_off}")
    lines += [f"  {line}" for line in account.trials]
    lines += [_paint("dim", f"  {line}", color) for line in account.overrides]
    lines.append(_paint("dim", f"  {account.watching}", color))
    lines.append(_paint("dim", f"  {account.where}", color))
    return "\n".join(lines) + "\n"


def _title(finding: Finding, color: bool) -> str:
    """`error FWD302 dead-units: encoder.1 at step 40`."""
    tone = "red" if finding.severity == "error" else "yellow"
    title = f"{_paint(tone, printable(finding.severity), color)} {_paint(tone, printable(finding.code), color)}"
    title += f" {_paint('bold', printable(finding.rule), color)}"
    if finding.layer:
        title += f": {_paint('bold', printable(finding.layer, 120), color)}"
    return title + (_paint("dim", f" at step {finding.step}", color) if finding.step is not None else "")


def _source_lines(finding: Finding, color: bool, width: int, gutter: int) -> list[str]:
    """The place, and the user's own line with a gutter and a mark under it."""
    if finding.location is None:
        return []
    margin = " " * gutter
    lines = [f"{margin}{_paint('blue', '-->', color)} {place(finding.location)}"]
    source = excerpt(finding.location)
    bar = _paint("blue", "|", color)
    if source is None or not source.blamed_line.strip():
        return lines
    room = max(20, width - gutter - 3)
    shown = textwrap.dedent(source.blamed_line)
    shown = shown if len(shown) <= room else shown[: room - 1] + "…"
    mark = _paint("red" if finding.severity == "error" else "yellow", "^" * len(shown), color)
    number = _paint("blue", str(finding.location.line), color)
    return [*lines, f"{margin} {bar}", f"{number} {bar} {shown}", f"{margin} {bar} {mark}"]


def _facts(finding: Finding) -> list[tuple[str, str]]:
    """Label and text of the lines below the message."""
    facts: list[tuple[str, str]] = []
    if finding.evidence:
        facts.append(("evidence", " · ".join(f"{name} {value}" for name, value in evidence_pairs(finding.evidence))))
    facts += [("fix", fix_text(fix)) for fix in finding.fixes]
    if finding.consequences:
        facts.append(("explains", ", ".join(printable(name) for name in finding.consequences)))
    facts.append(("more", f"wellfit rule {printable(finding.rule)}"))
    return facts


def fix_text(fix: Fix) -> str:
    """The title of a fix, what it changes unless it is safe, and how to try it."""
    meaning = "" if fix.safe else f" ({printable(fix.safety)})"
    trial = f"; try --override {printable(fix.override)}" if fix.override else ""
    return printable(fix.title) + meaning + trial


def _labelled(label: str, text: str, color: bool, width: int, margin: str) -> list[str]:
    """`label:` and a text wrapped beside it."""
    head = f"{label}:".ljust(10)
    wrapped = textwrap.wrap(text, max(20, width - len(margin) - len(head)), break_long_words=False) or [""]
    painted = _paint("cyan" if label == "fix" else "dim", head, color)
    return [margin + painted + wrapped[0], *(margin + " " * len(head) + line for line in wrapped[1:])]


def _verdict(findings: Sequence[Finding], account: Account, color: bool, notes_shown: bool) -> str:
    """`healthy`, `2 errors` or why neither can be said, and how many notes there are."""
    errors = sum(finding.severity == "error" for finding in findings)
    notes = len(findings) - errors
    word = verdict_of(findings, account)
    few = f"{_count(account.steps, 'step')} {'is' if account.steps == 1 else 'are'} too few to judge"
    tone, said = {
        "ill": ("red", _count(errors, "error")),
        "no-training": ("yellow", "no training step was seen, so there is nothing to judge"),
        "failed": ("yellow", f"no error found; the program ended with exit code {account.exit_code}"),
        "unwatched": ("yellow", "no error found, but nothing except the loss was seen"),
        "too-short": ("yellow", f"no illness seen, but {few}"),
        "healthy": ("green", "healthy"),
    }[word]
    verdict = _paint(tone, said, color)
    if not notes:
        return verdict
    return f"{verdict}, {_count(notes, 'note')}{'' if notes_shown else ' (in the report)'}"


def _listed(findings: Sequence[Finding], color: bool) -> list[str]:
    """One line for each finding, in columns."""
    if not findings:
        return []
    rows = [
        (
            finding.severity,
            f"{printable(finding.code, 12)} {printable(finding.rule, 40)}",
            printable(finding.layer or "", 40),
            place(finding.location) if finding.location else "",
        )
        for finding in findings
    ]
    second, third = (max(len(row[column]) for row in rows) for column in (1, 2))
    lines = []
    for severity, name, layer, where in rows:
        tone = "red" if severity == "error" else "yellow"
        columns = f"{name:<{second}}" + (f"  {layer:<{third}}" if third else "")
        lines.append(f"  {_paint(tone, f'{severity:<5}', color)} {columns}  {where}".rstrip())
    return lines


def _told_apart(findings: Sequence[Finding]) -> list[str]:
    """The override that tells which of the first two errors, that nothing connects, makes the run ill."""
    errors = [finding for finding in findings if finding.severity == "error"][:2]
    tried = [(finding, next((fix.override for fix in finding.fixes if fix.override), "")) for finding in errors]
    trials = {override.partition("=")[0]: (override, finding.rule) for finding, override in tried if override}
    shared = len(trials) < sum(bool(override) for _, override in tried)  # two changes of one thing tell nothing
    if len(errors) < 2 or not trials or shared or errors[0].rule == errors[1].rule:
        return []
    said = [f"--override {printable(override, 60)} treats {printable(rule, 40)}" for override, rule in trials.values()]
    which = "the two" if len(findings) == 2 else "the first two"
    return [f"which of {which} it is: {', '.join(said)}; see which run learns"]


def _count(number: int, noun: str) -> str:
    return f"{number_text(number)} {noun}{'' if number == 1 else 's'}"


def _paint(style: str, text: str, color: bool) -> str:
    """Text in an ANSI style; the text is harmless already, so nothing in it can end or add a style."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if color and text else text


def _code_marks(text: str, color: bool) -> str:
    """Words between back-ticks in bold where colours are allowed; the marks stay where they are not."""
    return re.sub(r"`([^`]+)`", lambda found: _paint("bold", found.group(1), True), text) if color else text
