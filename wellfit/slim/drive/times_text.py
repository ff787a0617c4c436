"""Measured times for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wellfit.slim.drive.faster.survey import FASTER


def time_cell(one: Mapping[str, Any], which: str) -> str:
    """Milliseconds of a call.

    Args:
        one: as the override time-model tells it.
        which: `before_ms` or `after_ms`.
    """
    return f"{'' if one['calm'] else '~'}{one[which]:.3g} ms"


def speed_text(speedup: float) -> str:
    """A ratio, if it is one that may be claimed."""
    return f"{speedup:.2f}x faster" if speedup >= FASTER else f"not faster ({speedup:.2f}x)"


def time_notes(times: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the times mean."""
    lines = ["p50: the median of calls in turn on this machine; below 1.2x nothing is called faster."] * bool(times)
    if not all(one["calm"] for one in times):
        lines.append("~ The machine was busy with something else: the fastest tenth of the calls, not the median.")
    return lines
