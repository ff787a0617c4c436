"""Processes that train one model together: whether they hold the same weights, see the same data, share gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wellfit.record import Record
from wellfit.record.curves import Floats, Steps

SAME = 1e-6
"""Two ranks' statistics of one tensor differ by less: both were summed in the same order, so equal tensors give equal
numbers, and float32 rounds at 6e-8. Unequal batches differ by far more than this."""


@dataclass(frozen=True)
class Compared:
    """One tensor in two processes.

    Args:
        name: of the parameter.
        step: int64 (n,): steps at which both measured all of it.
        gap: float64 (n,): largest relative difference of mean, rms and amax, in units of rms.
    """

    name: str
    step: Steps
    gap: Floats


def ranks(records: Sequence[Record]) -> list[Record]:
    """One record of each rank of a run with several, by rank; none if the processes do not train together."""
    by_rank: dict[int, Record] = {}
    for record in records:
        size = record.process.get("world_size", 1)
        if isinstance(size, int) and size > 1:
            by_rank.setdefault(record.rank, record)
    return [by_rank[rank] for rank in sorted(by_rank)] if len(by_rank) > 1 else []


def are_replicas(first: Record, other: Record) -> bool:
    """Whether two processes began with the same weights: copies of one model, not shards or models of their own."""
    names = [name for name in first.parameters if "_flat_param" not in name]
    if not names or set(names) - other.parameters.keys():
        return False
    return all(_same_start(first, other, name) for name in names)


def _same_start(first: Record, other: Record, name: str) -> bool:
    one, two = first.parameters[name], other.parameters[name]
    if one.shape != two.shape:
        return False
    a, b = one.initial, two.initial
    if a.rms != a.rms or b.rms != b.rms:
        return True  # not measured: no proof of a difference
    scale = max(a.rms, b.rms)
    return abs(a.rms - b.rms) <= SAME * scale and abs(a.amax - b.amax) <= SAME * max(a.amax, b.amax)


def compared(first: Record, other: Record, what: Literal["parameter", "gradient"]) -> list[Compared]:
    """Every weight or gradient that two processes measured in full at the same steps."""
    found = []
    for name in first.subjects(what):
        parameter = first.parameters.get(name)
        one, two = first.series(what, name), other.series(what, name)
        step, at_one, at_two = np.intersect1d(one.step, two.step, return_indices=True)
        if parameter is None or not len(step):
            continue
        # Large tensors are sampled, each process in its own places.
        whole = (one.count[at_one] >= parameter.size) & (two.count[at_two] >= parameter.size)
        with np.errstate(invalid="ignore"):  # infinite minus infinite: not known below
            scale = np.maximum(np.maximum(one.rms[at_one], two.rms[at_two]), 1e-30)
            parts = [
                np.abs(one.mean[at_one] - two.mean[at_two]),
                np.abs(one.rms[at_one] - two.rms[at_two]),
                np.abs(one.amax[at_one] - two.amax[at_two]),
            ]
            gap = np.max(parts, axis=0) / scale
        known = whole & np.isfinite(gap)
        if known.any():
            found.append(Compared(name, step[known], gap[known]))
    return found


def apart(tensors: Sequence[Compared], steps: int) -> list[Compared]:
    """Those that differ at `steps` steps or more, and at most of those that were compared."""
    return [one for one in tensors if (count := int(np.sum(one.gap > SAME))) >= steps and count > 0.5 * len(one.gap)]
