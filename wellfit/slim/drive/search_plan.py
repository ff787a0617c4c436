"""Which plan is tried next: families of tries with as many values a layer, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.plan import Plan, planned
from wellfit.slim.drive.search import STRONGEST, WEAKEST, Outcome, next_at_size, next_within
from wellfit.slim.drive.tries import Try
from wellfit.slim.target import Target


@dataclass(frozen=True)
class Family:
    """Tries that differ in the share of weights that they keep, and in nothing else.

    Args:
        values: different values of a layer.
        is_taught: the dense network teaches.
    """

    values: int
    is_taught: bool = False

    def has(self, one: Try) -> bool:
        """Whether a try is of it."""
        return one.values == self.values and one.is_taught == self.is_taught


FAMILIES = (Family(8), Family(16), Family(8, True), Family(4))
"""In the order in which they are tried."""

FIRST = 0.1
"""The share of weights that the first try keeps."""

MOST_TRIES = 9
"""Of one family."""

_GAIN = 0.97  # of the best file's bytes: a try that promises no less is not made


def next_plan(
    network: Network, target: Target, within: float, tries: Sequence[Try], can_be_taught: bool
) -> tuple[Plan, Family] | None:
    """The plan that is tried next, and its family; None where nothing better is in sight.

    Args:
        within: points that may be lost.
        tries: that were made with the script's own random numbers.
        can_be_taught: whether the dense network can teach.
    """
    for family in FAMILIES:
        own = [one for one in tries if family.has(one)]
        if len(own) >= MOST_TRIES or (family.is_taught and not can_be_taught):
            continue
        keep = _next_keep(network, target, within, tries, own, family.values)
        if keep is None:
            continue
        plan = planned(network, min(WEAKEST, max(STRONGEST, keep)), family.values)
        if not any(abs(one.keep / plan.keep - 1) < 0.01 for one in own):  # layers keep some weights, whatever is asked
            return plan, family
    return None


def _next_keep(
    network: Network, target: Target, within: float, tries: Sequence[Try], own: Sequence[Try], values: int
) -> float | None:
    outcomes = [one.outcome for one in own]
    if target.kind != "size":
        return next_at_size(outcomes, target.bytes_of(network.bytes), lambda keep: predicted(network, keep, values))
    best = best_of(tries, target, within, network)
    is_good = best is not None and best.lost <= within
    keep = next_within(outcomes, within, best.keep if is_good and best is not None else FIRST)
    if keep is None or not is_good or best is None or best in own:
        return keep
    return keep if _expected(network, keep, values, outcomes) < _GAIN * best.bytes else None


def predicted(network: Network, keep: float, values: int) -> float:
    """Bytes of the file."""
    return planned(network, keep, values).predicted


def _expected(network: Network, keep: float, values: int, outcomes: Sequence[Outcome]) -> float:
    """The prediction, corrected by the nearest try."""
    near = min(outcomes, key=lambda one: abs(one.keep - keep), default=None)
    right = near.bytes / predicted(network, near.keep, values) if near is not None else 1.0
    return right * predicted(network, keep, values)


def best_of(tries: Sequence[Try], target: Target, within: float, network: Network) -> Try | None:
    """The try that is given to the user: the smallest that loses little enough, or the best that is small enough.

    Where none is, the one that comes nearest; None if no try ended in a file that the script could judge.
    """
    judged = [one for one in tries if one.value is not None]
    if target.kind == "size":
        good = [one for one in judged if one.lost <= within]
        if good:
            return min(good, key=lambda one: (one.bytes, one.lost))
        return min(judged, key=lambda one: (one.lost, one.bytes), default=None)
    small = [one for one in judged if one.bytes <= target.bytes_of(network.bytes)]
    if small:
        return min(small, key=lambda one: (one.lost, one.bytes))
    return min(judged, key=lambda one: (one.bytes, one.lost), default=None)
