"""Runs of one setting with different random numbers: their mean, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from wellfit.slim.drive.metric import Metric
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


class Seeded(Protocol):
    """A try of either driver."""

    @property
    def value(self) -> float | None:
        """Of the metric; None if the script said none."""

    @property
    def bytes(self) -> int:
        """Of the file."""


class Recorded(Seeded, Protocol):
    """The same, as it is recorded."""

    def as_json(self) -> dict[str, Any]:
        """For the record."""


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


@dataclass(frozen=True)
class Seeds:
    """What runs of one setting came to.

    Args:
        values: of the metric, of those that have one.
        bytes: of all files.
    """

    values: Sequence[float]
    bytes: Sequence[int]

    @classmethod
    def of(cls, tries: Iterable[Seeded]) -> Seeds:
        """Of tries, that of the script's own random numbers first."""
        tries = list(tries)
        return cls([one.value for one in tries if one.value is not None], [one.bytes for one in tries])

    def as_json(self) -> dict[str, Any]:
        """As docs/slim/proof.md has it; `spread` is the standard deviation."""
        return {
            "count": len(self.bytes), "metrics": list(self.values),
            "mean": statistics.fmean(self.values) if self.values else None, "spread": self._spread,
            "bytes": list(self.bytes),
        }  # fmt: skip

    def sentence(self, metric: Metric) -> str:
        """For people: "3 seeds: mean 98.52 %, standard deviation 0.10 points"; empty where there is one."""
        if self._spread is None:
            return ""
        unit = "" if metric.unit in ("number", "own") else " points"
        each = f"{self._spread:.3g}" if not unit else f"{self._spread * (100 if metric.unit == 'share' else 1):.2f}"
        mean = metric.shown(statistics.fmean(self.values))
        return f"{len(self.values)} seeds: mean {mean}, standard deviation {each}{unit}"

    def span(self) -> str:
        """Of the bytes: "6,412 to 6,540 bytes"."""
        return f"{min(self.bytes):,} to {max(self.bytes):,} bytes"

    @property
    def _spread(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def sentences(file: Seeds, dense: Seeds, metric: Metric) -> list[str]:
    """What is said under the table where there are several seeds.

    Args:
        file: of the file's setting.
        dense: of the dense network, trained on alike; of none where that was not asked for.
    """
    found = []
    if file.sentence(metric):
        found.append(f"{file.sentence(metric)}; {file.span()}")
    if dense.sentence(metric):
        found.append(f"dense, trained on alike, {dense.sentence(metric)}")
    return found


def control_json(tries: Sequence[Recorded]) -> dict[str, Any] | None:
    """The dense network, trained on as that of the file was: the first run as a try, and `seeds` of all.

    Args:
        tries: none where that was not asked for.
    """
    return {**tries[0].as_json(), "seeds": Seeds.of(tries).as_json()} if tries else None
