"""Runs of one setting with different random numbers: their mean, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wellfit.slim.drive.metric import Metric


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
        """For report.json; `spread` is the standard deviation."""
        return {
            "count": len(self.bytes), "metrics": list(self.values),
            "mean": statistics.fmean(self.values) if self.values else None, "spread": self._spread,
            "bytes": list(self.bytes),
        }  # fmt: skip

    def sentence(self, metric: Metric) -> str:
        """For people: "3 seeds: mean 98.52 %, standard deviation 0.10 points"; empty where there is one."""
        if self._spread is None:
            return ""
        unit = " points" if metric.unit in ("share", "percent") else ""
        mean, spread = metric.shown(statistics.fmean(self.values)), spread_text(metric, self._spread)
        return f"{len(self.values)} seeds: mean {mean}, standard deviation {spread}{unit}"

    def span(self) -> str:
        """Of the bytes: "6,412 to 6,540 bytes"."""
        return f"{min(self.bytes):,} to {max(self.bytes):,} bytes"

    @property
    def _spread(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def spread_text(metric: Metric, spread: float) -> str:
    """A standard deviation for people, in points where the metric counts in such."""
    unit = {"share": 100, "percent": 1}.get(metric.unit)
    return f"{unit * spread:.2f}" if unit else f"{spread:.3g}"


def sentences(file: Seeds, dense: Seeds, metric: Metric) -> list[str]:
    """What is said under the table where there are several seeds.

    Args:
        file: of the file's setting.
        dense: of the dense network, trained on alike; of none where that was not asked for.
    """
    found = []
    if file.sentence(metric):
        found.append(file.sentence(metric) + (f"; {file.span()}" if file.bytes else ""))
    if dense.sentence(metric):
        found.append(f"dense, trained on alike, {dense.sentence(metric)}")
    return found


def control_json(tries: Sequence[Recorded]) -> dict[str, Any] | None:
    """The dense network, trained on as that of the file was: the first run as a try, and `seeds` of all.

    Args:
        tries: none where that was not asked for.
    """
    return {**tries[0].as_json(), "seeds": Seeds.of(tries).as_json()} if tries else None
