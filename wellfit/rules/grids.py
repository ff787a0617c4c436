"""One statistic of many parameters or layers side by side: names down, steps across."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from wellfit.record import Record
from wellfit.record.curves import Floats, Steps


@dataclass(frozen=True)
class Grid:
    """A statistic of several subjects at every sampled step.

    Args:
        step: int64 (n,), rising.
        names: of the subjects.
        value: float64 (len(names), n); NaN where one was not measured.
    """

    step: Steps
    names: tuple[str, ...]
    value: Floats

    def only(self, names: Container[str]) -> Grid:
        """The rows of some subjects."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        return Grid(self.step, tuple(self.names[row] for row in rows), self.value[rows])

    @property
    def median(self) -> Floats:
        """Over the subjects, for each step (n,); NaN where none was measured."""
        return self._over_subjects(np.nanmedian)

    @property
    def largest(self) -> Floats:
        """Over the subjects, for each step (n,); NaN where none was measured."""
        return self._over_subjects(np.nanmax)

    def typical(self, begin: int = 0) -> float:
        """Median over the subjects, and then over the steps from `begin` on; 0 where nothing was measured."""
        median = self.median[self.step >= begin]
        known = median[~np.isnan(median)]
        return float(np.median(known)) if len(known) else 0.0

    def _over_subjects(self, function: Callable[..., Floats]) -> Floats:
        if not len(self.names):
            return np.empty(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step at which nothing was measured is NaN
            return np.asarray(function(self.value, axis=0), np.float64)

    def norm(self, sizes: Mapping[str, int]) -> Floats:
        """The length of all subjects together as one vector, for each step (n,), where the statistic is an rms.

        NaN where none was measured; those that were not measured at a step count as 0.

        Args:
            sizes: number of elements by name.
        """
        if not len(self.names):
            return np.empty(0)
        size = np.array([[float(sizes[name])] for name in self.names])
        with np.errstate(all="ignore"):
            whole = np.sqrt(np.nansum(size * self.value**2, axis=0))
        return np.where(np.isnan(self.value).all(axis=0), np.nan, whole)

    def over_first(self) -> Grid:
        """Each subject over the first number that is known of it; NaN where that is 0."""
        known = np.isfinite(self.value)
        first = np.take_along_axis(self.value, known.argmax(axis=1)[:, None], axis=1) if self.value.size else self.value
        with np.errstate(all="ignore"):
            return Grid(self.step, self.names, np.where(first > 0, self.value / first, np.nan))


def grid(record: Record, what: str, names: Iterable[str], column: str = "rms") -> Grid:
    """One column of a series of each subject; subjects that were never measured are left out.

    Args:
        what: of docs/record.md ("gradient").
        names: of parameters or layers.
        column: as `Series` calls it ("rms", "amax", "low_share").
    """
    series = [one for one in (record.series(what, name) for name in names) if len(one)]
    if not series:
        return Grid(np.empty(0, np.int64), (), np.empty((0, 0)))
    step = np.unique(np.concatenate([one.step for one in series]))
    value = np.full((len(series), len(step)), np.nan)
    for row, one in enumerate(series):
        value[row, np.searchsorted(step, one.step)] = getattr(one, column)
    return Grid(step, tuple(one.subject for one in series), value)
