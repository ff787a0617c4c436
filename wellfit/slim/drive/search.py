"""Which strength is tried next: a search on what was tried, without memory of its own, so that it can be resumed.

The strength of a try is the share of weights that it keeps: 1 for all of them. Bytes grow with it; what is lost falls
with it, but for noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

WEAKEST, STRONGEST = 1.0, 0.002
"""Shares that are kept: all, and the fewest that are tried."""

_STRIDE = 2.5  # how much more is cut away where the last try was good, and less where it was not
_CLOSE = 1.12  # two shares whose ratio is less are the same
_UNDER = 0.93  # of the bytes that are allowed: a file that is no smaller is as good as one can be
_AIM = 0.975


@dataclass(frozen=True)
class Outcome:
    """What a try came to.

    Args:
        keep: the share of weights that it kept.
        bytes: of the file.
        lost: points.
    """

    keep: float
    bytes: int
    lost: float


def next_within(outcomes: Iterable[Outcome], within: float, first: float) -> float | None:
    """The next share to keep where the smallest file is wanted that loses no more than so much; None at the end.

    Args:
        outcomes: of one family of tries.
        within: points.
        first: where to begin.
    """
    outcomes = list(outcomes)
    if not outcomes:
        return first
    good = [one.keep for one in outcomes if one.lost <= within]
    if not good:
        weakest = max(one.keep for one in outcomes)
        return None if weakest >= WEAKEST else min(WEAKEST, weakest * _STRIDE)
    least = min(good)
    bad = [one.keep for one in outcomes if one.lost > within and one.keep < least]
    if not bad:
        return None if least <= STRONGEST else max(STRONGEST, least / _STRIDE)
    return math.sqrt(least * max(bad)) if least / max(bad) > _CLOSE else None


def next_at_size(outcomes: Iterable[Outcome], most: int, predicted: Callable[[float], float]) -> float | None:
    """The next share to keep where a file of so many bytes is wanted; None where one is there, or none can be.

    The secant on log bytes over log share; where one try was made alone, the prediction, corrected by it.

    Args:
        outcomes: of one family of tries.
        most: bytes.
        predicted: bytes for a share, rising.
    """
    outcomes = sorted(outcomes, key=lambda one: one.keep)
    if any(_UNDER * most <= one.bytes <= most for one in outcomes):
        return None
    if not outcomes:
        return _where(predicted, _AIM * most)
    under = [one for one in outcomes if one.bytes <= most]
    over = [one for one in outcomes if one.bytes > most]
    low, high = (under[-1] if under else None), (over[0] if over else None)
    if low is not None and high is not None:
        if low.keep >= high.keep or high.keep / low.keep < 1.02:  # noise of the coder: no share between gives more
            return None
        slope = math.log(high.bytes / low.bytes) / math.log(high.keep / low.keep)
        wanted = low.keep * (_AIM * most / low.bytes) ** (1 / slope)
        gap = math.log(high.keep / low.keep)
        return low.keep * math.exp(min(0.9 * gap, max(0.1 * gap, math.log(wanted / low.keep))))
    known = low or high
    assert known is not None
    keep = _where(predicted, _AIM * most * predicted(known.keep) / known.bytes)
    if low is not None:
        return None if low.keep >= WEAKEST else max(keep, min(WEAKEST, low.keep * 1.05))
    return None if known.keep <= STRONGEST else min(keep, max(STRONGEST, known.keep / 1.05))


def _where(predicted: Callable[[float], float], wanted: float) -> float:
    """The share for which so many bytes are predicted."""
    low, high = math.log(STRONGEST), math.log(WEAKEST)
    if predicted(STRONGEST) >= wanted:
        return STRONGEST
    if predicted(WEAKEST) <= wanted:
        return WEAKEST
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted(math.exp(middle)) < wanted else (low, middle)
    return math.exp(low)


def front(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that no other beats in bytes and in points, the smallest first."""
    best: list[Outcome] = []
    for one in sorted(outcomes, key=lambda one: (one.bytes, one.lost)):
        if math.isfinite(one.lost) and (not best or one.lost < best[-1].lost):
            best.append(one)
    return best
