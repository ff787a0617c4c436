"""What rules compute with: a curve over steps and a series of statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """Numbers over steps.

    Args:
        step: int64, not falling.
        value: float64, as many.
        time: seconds since attach, as many, or None.
    """

    step: Steps
    value: Floats
    time: Floats | None = None

    def __len__(self) -> int:
        return len(self.step)

    def smoothed(self, window: int) -> Curve:
        """The running median over the last `window` points (fewer at the start); NaN points are left out of it.

        A point whose window holds nothing but NaN stays NaN.
        """
        return Curve(self.step, running_median(self.value, window), self.time)

    def window(self, last_n: int) -> Curve:
        """The last `last_n` points."""
        start = max(len(self) - max(last_n, 0), 0)
        return Curve(self.step[start:], self.value[start:], None if self.time is None else self.time[start:])

    def at(self, step: Any) -> Floats:
        """The value that held at each of the given steps: of the last point at or before it, NaN before the first."""
        index = np.searchsorted(self.step, np.asarray(step, dtype=np.int64), side="right") - 1
        held = np.full(np.shape(index), np.nan)
        known = index >= 0
        held[known] = self.value[index[known]]
        return held


def running_median(values: Floats, window: int) -> Floats:
    """The median of each value and the `window` - 1 before it, without the NaN among them."""
    window = max(int(window), 1)
    if window == 1 or len(values) == 0:
        return values.astype(np.float64)
    padded = np.concatenate([np.full(window - 1, np.nan), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    result = np.empty(len(values))
    rows = max(1, 4_000_000 // window)  # so that a long curve with a wide window does not fill the memory
    for start in range(0, len(values), rows):
        # sort puts NaN last, so the median of the others is in the middle of their count
        ordered = np.sort(windows[start : start + rows], axis=1)
        count = window - np.isnan(ordered).sum(axis=1)
        row = np.arange(len(ordered))
        low = ordered[row, np.maximum(count - 1, 0) // 2]
        high = ordered[row, np.minimum(count // 2, window - 1)]
        # halves are added, not the sum halved: the sum of two large numbers may overflow
        middle = np.where(low == high, low, low / 2 + high / 2)
        result[start : start + rows] = np.where(count > 0, middle, np.nan)
    return result


def mean_by_step(step: Steps, value: Floats, time: Floats | None = None) -> Curve:
    """One point a step: the mean of its values (NaN stays NaN), its last time."""
    if len(step) == 0:
        return Curve(np.empty(0, np.int64), np.empty(0), None if time is None else np.empty(0))
    if np.any(step[1:] < step[:-1]):
        order = np.argsort(step, kind="stable")
        step, value, time = step[order], value[order], None if time is None else time[order]
    starts = np.flatnonzero(np.concatenate([[True], step[1:] != step[:-1]]))
    counts = np.diff(np.concatenate([starts, [len(step)]]))
    with np.errstate(all="ignore"):
        mean = np.add.reduceat(value, starts) / counts
    return Curve(step[starts], mean, None if time is None else time[starts + counts - 1])


COLUMNS = {
    "answer": ("rows", "distinct", "columns", "always", "column", "same", "argument", "tokens"),
    "labels": ("count", "entropy", "pool_entropy", "most", "least", "classes", "ignored", "batch_most"),
    "norm": ("elements", "gap", "largest_gap", "spread", "largest_spread"),
    "gates": ("count", "input", "forget", "output", "input_shut", "forget_shut", "output_shut", "forget_open"),
    "tokens": ("count", "leading", "trailing"),
}
"""Of series whose eight numbers are not count, mean, rms, amax and so on."""


@dataclass(frozen=True)
class Series:
    """The statistics of one subject at the sampled steps; steps that are missing are simply absent.

    Args:
        what: what it measures (`gradient`).
        subject: layer, parameter or loss.
        step: int64 (n,), not falling.
        data: float32 (n, 8), read only; the columns are named in docs/record.md.
    """

    what: str
    subject: str
    step: Steps
    data: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, name: str) -> Floats:
        """A column of a series whose numbers have names of their own (`COLUMNS`), float64 (n,).

        Raises:
            KeyError: series of this kind have no such column.
        """
        names = COLUMNS.get(self.what, ())
        if name not in names:
            raise KeyError(f"{self.what} has no column {name}; it has {', '.join(names) or 'the common ones only'}")
        return self.data[:, names.index(name)].astype(np.float64)

    @property
    def count(self) -> Floats:
        """Elements looked at."""
        return self.data[:, 0].astype(np.float64)

    @property
    def mean(self) -> Floats:
        return self.data[:, 1].astype(np.float64)

    @property
    def rms(self) -> Floats:
        """Root of the mean square."""
        return self.data[:, 2].astype(np.float64)

    @property
    def amax(self) -> Floats:
        """Largest absolute value."""
        return self.data[:, 3].astype(np.float64)

    @property
    def low(self) -> Floats:
        return self.data[:, 4].astype(np.float64)

    @property
    def high(self) -> Floats:
        return self.data[:, 5].astype(np.float64)

    @property
    def a(self) -> Floats:
        return self.data[:, 6].astype(np.float64)

    @property
    def b(self) -> Floats:
        return self.data[:, 7].astype(np.float64)

    @property
    def std(self) -> Floats:
        """Standard deviation, from rms and mean."""
        with np.errstate(all="ignore"):
            return np.sqrt(np.maximum(self.rms**2 - self.mean**2, 0))

    @property
    def low_share(self) -> Floats:
        """`low` as a share of `count`; NaN where nothing was counted."""
        return _share(self.low, self.count)

    @property
    def high_share(self) -> Floats:
        """`high` as a share of `count`; NaN where nothing was counted."""
        return _share(self.high, self.count)


def _share(part: Floats, whole: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return np.where(whole > 0, part / whole, np.nan)
