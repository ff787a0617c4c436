"""Which plan is tried next: families of tries with as many values a layer, one after the other.

Where a method is asked for all layers, its tries are families of their own. Where it leaves nothing open, there is one
try; where only the number of values is open, a search goes up or down a ladder of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.methods import Method
from wellfit.slim.drive.plan import Plan, alike, planned
from wellfit.slim.drive.search import STRONGEST, WEAKEST, Outcome, next_at_size, next_within
from wellfit.slim.drive.tries import Try
from wellfit.slim.target import Target


@dataclass(frozen=True)
class Family:
    """Tries that differ in the share of weights that they keep, and in nothing else.

    Args:
        values: different values of a layer; 0 if they are left as they are.
        is_taught: the dense network teaches.
        asked: see `Setting`.
    """

    values: int
    is_taught: bool = False
    asked: str = ""

    def has(self, one: Try) -> bool:
        """Whether a try is of it."""
        return (one.values, one.is_taught, one.asked) == (self.values, self.is_taught, self.asked)


FAMILIES = (Family(8), Family(16), Family(8, True), Family(4))
"""In the order in which they are tried."""

LADDER = (2, 4, 8, 16, 32, 64, 256)
"""Values of a layer, where nothing else is open."""

FIRST = 0.1
"""The share of weights that the first try keeps."""

MOST_TRIES = 9
"""Of one family."""

_GAIN = 0.97  # of the best file's bytes: a try that promises no less is not made


def next_plan(
    network: Network, target: Target, within: float, tries: Sequence[Try], can_be_taught: bool,
    asked: Method | None = None,
) -> tuple[Plan, Family] | None:  # fmt: skip
    """The plan that is tried next, and its family; None where nothing better is in sight.

    Args:
        within: points that may be lost.
        tries: that were made with the script's own random numbers.
        can_be_taught: whether the dense network can teach.
        asked: for all layers; None: prune and share.

    Raises:
        WellfitError: what was asked for fits no layer.
    """
    if asked is not None and not asked.is_searched:
        values = _next_values(network, target, within, [one for one in tries if one.asked == str(asked)], asked)
        return None if values is None else (alike(network, asked, values), Family(values, False, str(asked)))
    for family in families_of(asked):
        own = [one for one in tries if family.has(one)]
        if len(own) >= MOST_TRIES or (family.is_taught and not can_be_taught):
            continue
        making = _Making(network, family.values, asked.bits if asked else 0)
        keep = _next_keep(making, target, within, tries, own)
        if keep is None:
            continue
        plan = making.plan(min(WEAKEST, max(STRONGEST, keep)))
        if not any(abs(one.keep / plan.keep - 1) < 0.01 for one in own):  # layers keep some weights, whatever is asked
            return plan, family
    return None


@dataclass(frozen=True)
class _Making:
    """How the plans of a family are made.

    Args:
        values, bits: see `planned`.
    """

    network: Network
    values: int
    bits: int = 0

    def plan(self, keep: float) -> Plan:
        """That keeps such a share."""
        return planned(self.network, keep, self.values, self.bits)

    def predicted(self, keep: float) -> float:
        """Bytes of its file."""
        return self.plan(keep).predicted

    def expected(self, keep: float, outcomes: Sequence[Outcome]) -> float:
        """The prediction, corrected by the nearest try."""
        near = min(outcomes, key=lambda one: abs(one.keep - keep), default=None)
        right = near.bytes / self.predicted(near.keep) if near is not None else 1.0
        return right * self.predicted(keep)


def families_of(asked: Method | None) -> tuple[Family, ...]:
    """Of a method that leaves open which share is kept."""
    return FAMILIES if asked is None else (Family(0, False, str(asked)), Family(0, True, str(asked)))


def first_plan(network: Network, target: Target, asked: Method | None) -> Plan:
    """What is tried first.

    Raises:
        WellfitError: what was asked for fits no layer.
    """
    following = next_plan(network, target, 0.0, (), False, asked)
    assert following is not None  # without any try there is one to make
    return following[0]


def _next_values(network: Network, target: Target, within: float, own: Sequence[Try], asked: Method) -> int | None:
    """How many values a layer has in the next try: up or down the ladder from what was tried; None at the end."""
    if not asked.shares:
        return None if own else 0
    most = None if target.kind == "size" else target.bytes_of(network.bytes)
    is_good = {one.values: one.lost <= within if most is None else one.bytes <= most for one in own}
    ladder = LADDER[::-1] if most is None else LADDER  # from what is good most likely, to what is wanted
    if not is_good:
        fitting = [at for at in LADDER if most is None or alike(network, asked, at).predicted <= most]
        return 16 if most is None else max(fitting, default=LADDER[0])
    good = [place for place, values in enumerate(ladder) if is_good.get(values)]
    place = max(good) + 1 if good else min(ladder.index(values) for values in is_good if values is not None) - 1
    following = ladder[place] if 0 <= place < len(ladder) else None
    return None if following in is_good else following


def _next_keep(
    making: _Making, target: Target, within: float, tries: Sequence[Try], own: Sequence[Try]
) -> float | None:
    outcomes = [one.outcome for one in own]
    if target.kind != "size":
        return next_at_size(outcomes, target.bytes_of(making.network.bytes), making.predicted)
    best = best_of(tries, target, within, making.network)
    is_good = best is not None and best.lost <= within
    keep = next_within(outcomes, within, best.keep if is_good and best is not None else FIRST)
    if keep is None or not is_good or best is None or best in own:
        return keep
    return keep if making.expected(keep, outcomes) < _GAIN * best.bytes else None


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
