"""Runs that the search does not ask for: a setting made again with other random numbers, as often as there is time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from wellfit.slim.drive.options import time_text
from wellfit.slim.drive.runs import Failed, OutOfTime

_FAR = 1_000_000_000
"""Seeds lie behind it, far from those that scripts set themselves: one of these would make the same run again."""


def other_numbers(seed: int | None) -> list[dict[str, Any]]:
    """The override under which a run draws other random numbers.

    Args:
        seed: 1, 2, ...; None: the script's own, and no override.
    """
    return [] if seed is None else [{"override": "seed", "value": _FAR + seed}]


def ended(search: Sequence[str], undone: Sequence[str]) -> list[str]:
    """What is told of a slimming that did not come to its end, in sentences.

    Args:
        search: why nothing more was tried.
        undone: what was to be made of the best try, and was not.
    """
    return [*(f"{why}: this is the best so far" for why in search), *undone]


Made = TypeVar("Made")


@dataclass(frozen=True)
class Wanted(Generic[Made]):
    """A run that the search does not ask for.

    Args:
        name: for people.
        known: the try, where it was made already.
        make: makes it, given the seconds that it may take.
    """

    name: str
    known: Made | None
    make: Callable[[float], Made]


def in_time(
    wanted: Sequence[Wanted[Made]], needed: Callable[[], float], left: Callable[[], float], tell: Callable[[str], None]
) -> tuple[list[Made], str]:
    """Make as many runs as there is time for.

    Args:
        needed: seconds that the next one should take.
        left: seconds of the budget.

    Returns:
        the tries; and why there are no more: empty where all were made.

    Raises:
        Interrupted: a signal came.
    """
    found: list[Made] = []
    why = ""
    for one in wanted:
        if one.known is not None:
            found.append(one.known)
            continue
        seconds = needed()
        if seconds > left():
            why = "the budget is over (--budget)"
            break
        tell(f"{one.name}, about {time_text(seconds)}")
        try:
            found.append(one.make(max(left(), 2 * seconds)))
        except (OutOfTime, Failed) as failed:
            why = str(failed) or "its time was over"
            break
    return found, f"{len(found)} of {len(wanted)} runs were made, as {why}" if why else ""
