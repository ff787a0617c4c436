"""What goes into the record: rows of statistics collected during a step, events, numbered declarations."""

from __future__ import annotations

from typing import Any

from wellfit.probe.moment import Moment
from wellfit.probe.statistics import Row
from wellfit.probe.writer import Writer


class Ledger:
    """The probe's side of the record.

    Args:
        writer: of this process.
        now: gives the step that events carry.
    """

    def __init__(self, writer: Writer, now: Moment) -> None:
        self.writer = writer
        self._now = now
        self._rows: dict[int, dict[tuple[str, str], Row]] = {}
        self._counts: dict[str, int] = {}

    @property
    def waiting(self) -> bool:
        """Whether rows of a step are still to be written."""
        return bool(self._rows)

    def row(self, step: int, what: str, subject: str, row: Row) -> None:
        """Take one row of a series."""
        self._rows.setdefault(step, {})[what, subject] = row

    def write(self, before: int, keep: bool = False) -> None:
        """Write the rows of all steps before one; with `keep` even if the quota is used up."""
        series = self.writer.series
        for step in [s for s in self._rows if s < before]:
            rows = sorted(self._rows.pop(step).items())
            lines: list[tuple[float, ...]] = [(series(what, subject), *row) for (what, subject), row in rows]
            self.writer.statistics(step, lines, keep=keep and self.first("kept"))

    def event(self, name: str, **fields: Any) -> None:
        """Write an event."""
        self.writer.declare({"type": "event", "event": name, "step": self._now.step, **fields})

    def count_event(self, name: str, key: str, **fields: Any) -> None:
        """Write an event that may come in every step: the first five times, then at each doubling."""
        count = self._count(key)
        if count <= 5 or count & (count - 1) == 0:
            self.event(name, count=count, **fields)

    def declare(self, kind: str, limit: int = 200, **fields: Any) -> int:
        """Declare one more object of a kind; returns its number. Of more than `limit` the rest is left out."""
        number = self._count(kind) - 1
        if number < limit:
            self.writer.declare({"type": kind, "id": number, **fields})
        return number

    def first(self, what: str, times: int = 1) -> bool:
        """True the first so many times that it is asked."""
        return self._count(what) <= times

    def _count(self, key: str) -> int:
        count = self._counts[key] = self._counts.get(key, 0) + 1
        return count
