"""What a short run showed, or why it was not made, in one line."""

from __future__ import annotations

import math
from pathlib import Path

from wellfit.condition import condition
from wellfit.launch.short_run import Ended, last_lines, refusal
from wellfit.overrides.catalogue import find_override
from wellfit.record import Record, Run
from wellfit.report.safe import printable

_LATE = "from step "  # how an override begins that failed under way


def showed(run: Run, override: str = "") -> str:
    """What a run showed: how its loss fared, or what an override saw that only looks.

    Args:
        run: read to its end, with a record.
        override: as typed; empty for the run as it is.
    """
    record = max(run.records, key=lambda one: one.step_count)
    if override and find_override(override.partition("=")[0]).looks:
        return "; ".join(changed for entry in _of(record, override) for changed in entry.changed)
    steps = f"{record.step_count} step{'' if record.step_count == 1 else 's'}"
    state = condition(record)
    start, end = state.start, state.end
    if not math.isfinite(start):
        value = record.loss().value
        start, end = (float(value[0]), float(value[-1])) if len(value) else (math.nan, math.nan)
    return f"{steps}, loss {start:.4g} -> {end:.4g}" if len(record.loss()) else f"{steps}, no loss seen"


def not_tried(run: Run | None, override: str, ended: Ended, folder: Path) -> str:
    """Why a trial tells nothing, as a sentence without a full stop; empty if it was made as it was asked for."""
    why = refusal(folder)
    name = override.partition("=")[0]
    if why:
        return _without_name(why, override)
    if ended.status is None:
        return "its time was over; give --time more seconds"
    if ended.status:
        how = f"exit code {ended.status}" if ended.status > 0 else f"signal {-ended.status}"
        said = "".join(f" ({printable(line, 200)})" for line in last_lines(folder, 1))
        return f"the script ended with {how} under it{said}"
    if run is None or not run.records or not any(record.step_count for record in run.records):
        return "no training was seen under it"
    for record in run.records:
        for entry in _of(record, name):
            late = [why for what, why in entry.left_out if what.startswith((_LATE, "the whole run"))]
            if late:
                return printable(late[0], 300)
    return ""


def _without_name(why: str, override: str) -> str:
    """Without "one-batch cannot be applied: " before it: the line says already what it is about."""
    return printable(why.removeprefix(override).strip().removeprefix("cannot be applied: "), 400)


def _of(record: Record, override: str) -> list:  # type: ignore[type-arg]
    return [entry for entry in record.overrides.values() if entry.name == override.partition("=")[0]]
