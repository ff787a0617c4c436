"""What was watched of a run and what the watching cost: the same figures and words in every format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wellfit.condition import FEWEST_STEPS
from wellfit.finding import Finding
from wellfit.report.amounts import number_text
from wellfit.report.safe import printable
from wellfit.report.source import shown_path

if TYPE_CHECKING:
    from wellfit.record import Record, Run
    from wellfit.record.declared import Overridden

Verdict = Literal["ill", "no-training", "failed", "unwatched", "too-short", "healthy"]

OVERRIDDEN_SHOWN = 3
"""Changes of one override that its line names."""

LONG = 30.0
"""Seconds from which a share of the time says something: a short run is mostly the probe's start."""


@dataclass(frozen=True)
class Account:
    """The figures of a run that every report shows.

    Args:
        run_id: name of the run's folder.
        folder: path of the run's folder.
        command: the user's command, as one line.
        exit_code: of the user's program; None while it runs.
        processes: how many processes wrote a record.
        steps: training steps that were seen (of the first process).
        watched: steps at which tensors were looked at.
        seconds: how long the first process was watched; None if unknown.
        cost_seconds: how much of it the probe took; None if unknown.
        switched_off: why the probe switched itself off, or None.
        overrides: a line for each override under which the run was made; those that `wellfit check` sets for all its
            runs are left out.
        trials: of a run that `wellfit check` made, a line for each run beside it, and the run as it is first.
    """

    run_id: str
    folder: str
    command: str
    exit_code: int | None
    processes: int
    steps: int
    watched: int
    seconds: float | None
    cost_seconds: float | None
    switched_off: str | None
    overrides: tuple[str, ...] = ()
    trials: tuple[str, ...] = ()

    @property
    def cost_share(self) -> float | None:
        """Time of the probe over the time of the program without it; None if unknown."""
        if self.seconds is None or self.cost_seconds is None or not self.seconds > self.cost_seconds:
            return None
        return self.cost_seconds / (self.seconds - self.cost_seconds)

    @property
    def watching(self) -> str:
        """One sentence on how much was watched and what it cost."""
        text = (
            f"{number_text(self.steps)} {'step' if self.steps == 1 else 'steps'}, {number_text(self.watched)} watched"
        )
        if self.processes > 1:
            text += f", {self.processes} processes"
        if self.cost_seconds is not None:
            share = self.cost_share
            percent = f" ({100 * share:.2g} %)" if share is not None and (self.seconds or 0.0) >= LONG else ""
            text += f"; watching cost {self.cost_seconds:.2f} s{percent}"
        return text

    @property
    def where(self) -> str:
        """Where the report lies, or the run's folder if there is no report."""
        page = Path(self.folder, "report.html")
        return f"report: {shown_path(str(page))}" if page.exists() else f"record: {shown_path(self.folder)}"


def verdict_of(findings: Sequence[Finding], account: Account) -> Verdict:
    """What may be said of a run in one word: only one that was seen for long enough is called healthy."""
    if any(finding.severity == "error" for finding in findings):
        return "ill"
    if not account.steps:
        return "no-training"
    if account.exit_code:
        return "failed"
    if not account.watched:
        return "unwatched"
    return "too-short" if account.steps < FEWEST_STEPS else "healthy"


def account_of(run: Run) -> Account:
    """The figures of a run; those that the record does not hold are None or 0."""
    record = run.records[0] if run.records else None
    meta: dict[str, Any] = run.meta or {}
    cost: dict[str, Any] = (record.cost if record else None) or {}
    seconds, cost_seconds = _seconds(cost.get("seconds")), _seconds(cost.get("probe_seconds"))
    return Account(
        run_id=printable(Path(run.folder).name),
        folder=str(run.folder),
        command=command_of(meta) or command_of(record.process if record else {}),
        exit_code=meta.get("exit_code") if isinstance(meta.get("exit_code"), int) else None,
        processes=len(run.records),
        steps=int(record.step_count) if record else 0,
        watched=len(record.watched_steps) if record else 0,
        seconds=seconds,
        cost_seconds=cost_seconds,
        switched_off=_switched_off(run),
        overrides=tuple(_overridden(entry) for entry in _asked_for(run, record)) if record else (),
        trials=_trials(run),
    )


def _asked_for(run: Run, record: Record) -> list[Overridden]:
    """The overrides that the user asked for."""
    frame = run.check.get("frame")
    set_by_check = frame if isinstance(frame, list) else ()
    return [entry for entry in record.overrides.values() if entry.name not in set_by_check]


def _trials(run: Run) -> tuple[str, ...]:
    """`tried one-batch: 300 steps, loss 2.3 -> 0.001`, or `not tried: one-batch: why`."""
    entries = run.check.get("trials")
    lines = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        name = entry.get("override") or "as it is"
        made = entry.get("showed") is not None
        lines.append(f"tried {name}: {entry.get('showed')}" if made else f"not tried: {name}: {entry.get('why')}")
    return tuple(printable(line, 600) for line in lines)


def command_of(meta: dict[str, Any]) -> str:
    """The user's command as one harmless line; empty if unknown."""
    command = meta.get("command") or meta.get("argv") or ""
    return printable(" ".join(map(str, command)) if isinstance(command, (list, tuple)) else command)


def _seconds(value: Any) -> float | None:
    """A duration in seconds, or None if it is no finite number above 0 (a record without an account has zeros)."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) and value > 0 else None


def _overridden(override: Overridden) -> str:
    """`override lr=0.01: SGD at train.py:12: lr 0.1 -> 0.01`, and what was left out."""
    parts = list(override.changed[:OVERRIDDEN_SHOWN])
    if len(override.changed) > OVERRIDDEN_SHOWN:
        parts.append(f"and {len(override.changed) - OVERRIDDEN_SHOWN} more")
    parts += [f"left out {what}: {why}" for what, why in override.left_out[:OVERRIDDEN_SHOWN]]
    return printable(f"override {override.text}: {'; '.join(parts)}", 400)


def _switched_off(run: Run) -> str | None:
    """The first reason a probe gave for switching itself off."""
    for record in run.records:
        for event in record.events("switched-off"):
            return printable(event.get("error", "an error of its own"), 300)
    return None
