"""How long calls of a file's network take, beside those of the network as the script makes it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wellfit.slim.drive.base import Dense
from wellfit.slim.drive.runs import Failed, OutOfTime, Runs
from wellfit.slim.drive.tries import Try
from wellfit.slim.drive.work import Work

_FILE = "times.json"
_SECONDS = 0.5  # for each number of samples, where time is not what the target is about


@dataclass(frozen=True)
class Times:
    """What was measured.

    Args:
        batches: by samples in a call, as the override time-model tells them; empty where nothing was measured.
        layers: milliseconds of each layer, `before` and `after`, likewise.
        why_not: the reason where nothing was measured.
    """

    batches: list[dict[str, Any]] = field(default_factory=list)
    layers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    why_not: str = ""


def timing(run: Path, batch: int, seconds: float) -> dict[str, Any]:
    """The override that measures them.

    Args:
        run: folder of the run.
        batch: samples in a call, beside 1 and 32.
        seconds: for each number of samples.
    """
    return {"override": "time-model", "file": str(run / _FILE), "batch": batch, "seconds": seconds}


def times_in(run: Path) -> Times:
    """What the override has measured in a run.

    Raises:
        Failed: nothing.
    """
    try:
        told = json.loads((run / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise Failed("the network cannot be timed: it cannot be copied, or not called again") from None
    return Times(told["times"], {"before": told["before"], "after": told["after"]})


def times_of(one: Try, dense: Dense, batch: int, runs: Runs, work: Work) -> Times:
    """What a try's file takes; measured once, and no failure of the slimming where it cannot be.

    Raises:
        Interrupted: as `Runs.make`.
    """
    name = f"times-{one.digest}-{batch}"
    told = work.done(name)
    if told is not None:
        return Times(**told)
    runs.tell("the file's network timed beside the dense one, call by call in turn")
    run = work.begun(name)
    own = [{"override": "start", "file": str(one.file)}, {"override": "evaluate"}, timing(run, batch, _SECONDS)]
    try:
        runs.make(run, own, None, max(120.0, 3 * dense.evaluating_seconds))
        times = times_in(run)
    except OutOfTime:
        return Times(why_not="its evaluation took too long")
    except Failed as failed:
        return Times(why_not=str(failed))
    work.note(name, asdict(times))
    return times
