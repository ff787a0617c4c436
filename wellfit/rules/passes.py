"""The training loss pass by pass over the data: what is learned within a pass, and what only from pass to pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfit.condition import phases
from wellfit.record import Curve, Record

FEWEST_STEPS = 8  # of a pass whose beginning is told from its end


def passes(record: Record) -> list[NDArray[np.float64]]:
    """The finite training losses of each phase, one row a pass over the data, of equal length.

    Where a pass begins is told by the loaders, made anew for each pass or not. A phase whose passes are not all as
    long as the first is left out.
    """
    begins: dict[tuple[str, int] | int, set[int]] = {}
    for event in record.events("epoch"):
        loader = record.loaders.get(event["loader"])
        place = loader.location if loader is not None else None
        key = (place.file, place.line) if place is not None else int(event["loader"])
        begins.setdefault(key, set()).add(int(event["step"]))
    found = []
    for phase in phases(record, record.loss()):
        rows = [each for steps in begins.values() if (each := _rows(phase, sorted(steps))) is not None]
        if rows:
            found.append(min(rows, key=len))
    return found


def _rows(phase: Curve, begins: list[int]) -> NDArray[np.float64] | None:
    """The losses of a phase, cut where passes begin; None if these do not come at equal distances.

    Events are thinned, so that a distance may be that of several passes.
    """
    within = [step for step in begins if phase.step[0] <= step <= phase.step[-1]]
    if len(within) < 2 or within[0] != phase.step[0]:
        return None
    gaps = np.diff(within)
    length = int(gaps[0])
    count = len(phase) // max(length, 1)
    if length < FEWEST_STEPS or np.any(gaps % length) or count < 2 or phase.step[-1] - phase.step[0] >= len(phase):
        return None
    rows = phase.value[: count * length].reshape(count, length)
    return rows if np.all(np.isfinite(rows)) else None
