"""Which structure is trained next, by what was measured and tried: without memory of its own, so it can be resumed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wellfit.slim.drive.faster.survey import FASTER, Candidate
from wellfit.slim.target import Target

_GAIN = 1.05  # times as fast as the best: a candidate that promises less is not tried

_MARGIN = 1.07  # between what is asked for and what is promised: two measurements are not the same


@dataclass(frozen=True)
class Outcome:
    """What came of a candidate.

    Args:
        speedup, milliseconds: measured again, from the file.
        lost: points.
    """

    speedup: float
    milliseconds: float
    lost: float


Outcomes = Mapping[str, Outcome]
"""By the key of a candidate."""


def next_candidate(
    candidates: Iterable[Candidate], outcomes: Outcomes, target: Target, within: float
) -> Candidate | None:
    """What is tried next; None where nothing better is in sight.

    Those that should be fast enough come first; of them those that need no training, then each method once, then the
    method that may still become fastest.

    Args:
        candidates: measured to be at least `FASTER`.
        outcomes: of those that were tried.
        target: of time.
        within: points that may be lost.
    """
    ladders: dict[str, list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: (one.expected, one.strength)):
        ladders.setdefault(one.method, []).append(one)
    following = _next_fast if target.kind == "latency" else _next_at_speed
    found = [each for ladder in ladders.values() if (each := following(ladder, outcomes, target, within)) is not None]
    fresh = {method for method, ladder in ladders.items() if not any(one.key in outcomes for one in ladder)}
    return min(found, key=lambda one: (not is_fast(_expected(one), target), one.is_trained, one.method not in fresh,
                                       -one.expected), default=None)  # fmt: skip


def _next_fast(ladder: Sequence[Candidate], outcomes: Outcomes, target: Target, within: float) -> Candidate | None:
    """Of one method: between what is good enough and what is not, halfway; only what would be faster than the best."""
    best = max((one.speedup for one in outcomes.values() if one.lost <= within), default=0.0)
    low, high = -1, len(ladder)
    for place, one in enumerate(ladder):
        tried = outcomes.get(one.key)
        if tried is not None and tried.lost > within:
            high = min(high, place)
    for place, one in enumerate(ladder[:high]):
        if one.key in outcomes:
            low = place
    open_ = [one for one in ladder[low + 1 : high] if one.expected > _GAIN * best]
    return open_[(len(open_) - 1) // 2] if open_ else None


def _next_at_speed(ladder: Sequence[Candidate], outcomes: Outcomes, target: Target, within: float) -> Candidate | None:
    """Of one method: the weakest that is surely fast enough; the strongest of all where none is."""
    if any(one.key in outcomes and is_fast(outcomes[one.key], target) for one in ladder):
        return None
    enough = (
        [one for one in ladder if is_fast(_expected(one, _MARGIN), target)]
        or [one for one in ladder if is_fast(_expected(one), target)]
        or ladder[-1:]
    )
    return next((one for one in enough if one.key not in outcomes), None)


def _expected(one: Candidate, margin: float = 1.0) -> Outcome:
    return Outcome(one.expected / margin, one.expected_milliseconds * margin, 0.0)


def is_fast(one: Outcome, target: Target) -> bool:
    """Whether a speed is the one asked for, and worth to be called faster."""
    if one.speedup < FASTER:
        return False
    if target.kind == "milliseconds":
        return one.milliseconds <= target.amount
    return target.kind == "latency" or one.speedup >= target.amount


def best_of(outcomes: Outcomes, target: Target, within: float) -> str | None:
    """The key of what is given to the user: the fastest that loses little enough, or the best that is fast enough.

    Where none is, what comes nearest; None if nothing is faster than the dense network.
    """
    judged = {key: one for key, one in outcomes.items() if math.isfinite(one.lost) and one.speedup >= FASTER}
    if target.kind == "latency":
        good = {key: one for key, one in judged.items() if one.lost <= within}
        if good:
            return max(good, key=lambda key: (good[key].speedup, -good[key].lost))
        return min(judged, key=lambda key: (judged[key].lost, -judged[key].speedup), default=None)
    fast = {key: one for key, one in judged.items() if is_fast(one, target)}
    if fast:
        return min(fast, key=lambda key: (fast[key].lost, -fast[key].speedup))
    return max(judged, key=lambda key: (judged[key].speedup, -judged[key].lost), default=None)


def front(outcomes: Outcomes) -> list[str]:
    """Keys of those that no other beats in milliseconds and in points, the fastest first."""
    best: list[str] = []
    for key in sorted(outcomes, key=lambda key: (outcomes[key].milliseconds, outcomes[key].lost)):
        if math.isfinite(outcomes[key].lost) and (not best or outcomes[key].lost < outcomes[best[-1]].lost):
            best.append(key)
    return best
