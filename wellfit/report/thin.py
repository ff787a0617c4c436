"""Curves made small enough for a page: min/max thinning onto a grid, and 16-bit packing.

The extremes of a curve are what a doctor looks for, so thinning keeps the smallest and the largest value of every
stretch, in the order in which they came, and lets non-finite values win over all others.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Codes of a packed curve: 0 nothing was measured; 1..TOP a value between lo and hi; then the three that have no place
# on a logarithmic scale.
TOP, ZERO, INFINITE, NAN = 65_000, 65_533, 65_534, 65_535


@dataclass(frozen=True)
class Grid:
    """The steps that all curves of the layers share.

    Args:
        source: (n,) the watched steps, ascending.
        steps: (m,) the steps of the points shown, ascending; `source` itself if no thinning is needed.
        stretch: how many watched steps one pair of points stands for; 0 if no thinning is needed.
    """

    source: Ints
    steps: Ints
    stretch: int

    def fold(self, step: Ints, value: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """A series brought onto the grid.

        Args:
            step: (k,) ascending steps of the series; steps that were not watched are left out.
            value: (k,) its values.

        Returns:
            (m,) values and (m,) whether there is one.
        """
        whole = np.full(len(self.source), np.nan)
        seen = np.zeros(len(self.source), dtype=bool)
        if len(self.source) and len(step):
            at = np.minimum(np.searchsorted(self.source, step), len(self.source) - 1)
            known = self.source[at] == step
            whole[at[known]] = value[known]
            seen[at[known]] = True
        if not self.stretch:
            return whole, seen
        return _pairs(whole, seen, self.stretch)


def grid_of(watched: Ints, points: int) -> Grid:
    """The grid for a run: all watched steps if they are at most `points`, else pairs of points for equal stretches."""
    source = np.unique(np.asarray(watched, dtype=np.int64))
    if len(source) <= points:
        return Grid(source, source, 0)
    stretch = -(-len(source) // max(1, points // 2))
    first = np.arange(0, len(source), stretch)
    last = np.minimum(first + stretch - 1, len(source) - 1)
    return Grid(source, np.stack([source[first], source[last]], axis=1).reshape(-1), stretch)


def _pairs(whole: Floats, seen: npt.NDArray[np.bool_], stretch: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(smallest, largest) of each stretch in the order in which they came; a non-finite value takes both places."""
    rows = -(-len(whole) // stretch)
    table = np.full((rows, stretch), np.nan)
    table.reshape(-1)[: len(whole)] = whole
    there = np.zeros((rows, stretch), dtype=bool)
    there.reshape(-1)[: len(seen)] = seen
    low = np.argmin(np.where(there & np.isfinite(table), table, np.inf), axis=1)
    high = np.argmax(np.where(there & np.isfinite(table), table, -np.inf), axis=1)
    each = np.arange(rows)
    result = np.stack([table[each, np.minimum(low, high)], table[each, np.maximum(low, high)]], axis=1)
    bad = there & ~np.isfinite(table)
    hit = bad.any(axis=1)
    result[hit] = table[each, np.argmax(bad, axis=1)][hit, None]
    return result.reshape(-1), np.repeat(there.any(axis=1), 2)


def pack(value: Floats, seen: npt.NDArray[np.bool_], log: bool) -> dict[str, Any] | None:
    """A curve as base64 of 16-bit codes between its own smallest and largest value.

    Args:
        value: (m,) values, not negative if `log`.
        seen: (m,) whether there is one.
        log: whether the codes are even in the logarithm: a relative error below 0.2 % over 100 decades.

    Returns:
        `{"lo", "hi", "data"}` (logarithms to base 10 if `log`), or None if nothing was seen.
    """
    if not seen.any():
        return None
    plain = seen & np.isfinite(value) & ((value > 0) if log else True)
    scaled = np.log10(np.where(plain, value, 1.0)) if log else np.where(plain, value, 0.0)
    low = float(scaled[plain].min()) if plain.any() else 0.0
    high = float(scaled[plain].max()) if plain.any() else 0.0
    codes = np.zeros(len(value), dtype="<u2")
    codes[plain] = 1 + np.rint((scaled[plain] - low) / ((high - low) or 1.0) * (TOP - 1)).astype("<u2")
    codes[seen & np.isnan(value)] = NAN
    codes[seen & np.isinf(value)] = INFINITE
    if log:
        codes[seen & (value <= 0)] = ZERO
    data = base64.b64encode(codes.tobytes()).decode("ascii")
    return {"lo": round(low, 6), "hi": round(high, 6), "data": data}


def thin(step: Ints, value: Floats, points: int) -> tuple[list[int], list[float | None], list[int]]:
    """One curve of its own (a loss), thinned and ready for JSON.

    Args:
        step: (n,) ascending; several values of one step are averaged.
        value: (n,) any numbers.
        points: at most so many are kept.

    Returns:
        steps, values (5 significant digits, None where not finite), and the first 200 steps with a non-finite value.
    """
    step, value = one_per_step(step, value)
    bad = [int(at) for at in step[~np.isfinite(value)][:200]]
    grid = grid_of(step, points)
    folded, seen = grid.fold(step, value)
    kept = seen & np.isfinite(folded)
    values = [float(f"{number:.5g}") if keep else None for number, keep in zip(folded, kept, strict=True)]
    return [int(at) for at in grid.steps], values, bad


def one_per_step(step: npt.ArrayLike, value: npt.ArrayLike) -> tuple[Ints, Floats]:
    """The mean value of each step, ascending; a non-finite value of a step stays non-finite."""
    steps, values = np.asarray(step, dtype=np.int64), np.asarray(value, dtype=np.float64)
    each, at = np.unique(steps, return_inverse=True)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.zeros(len(each))
        np.add.at(total, at.reshape(-1), values)
        mean: Floats = total / np.maximum(1, np.bincount(at.reshape(-1), minlength=len(each)))
    return each, mean
