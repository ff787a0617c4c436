"""Update ratios: how far one step moves each weight, relative to the size of the weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wellfit.record import Parameter, Record
from wellfit.rules.grids import Grid, grid


def weights(record: Record) -> list[Parameter]:
    """The trained weights that ratios are computed for, in the order in which they were first updated."""
    layers = record.layers
    found = []
    for name in record.subjects("update"):
        parameter = record.parameters.get(name)
        if parameter is None or len(parameter.shape) < 2 or parameter.size <= 1 or parameter.initial.rms <= 0:
            continue
        layer = layers.get(parameter.layer)
        if layer is None or layer.kind not in ("embedding", "norm"):
            found.append(parameter)
    return found


def update_ratios(record: Record) -> Grid:
    """rms(update) / rms(weight) of every weight at every sampled step; empty where nothing was measured."""
    return record.once("update ratios", lambda: _update_ratios(record))


def _update_ratios(record: Record) -> Grid:
    names = [parameter.name for parameter in weights(record)]
    update, size = grid(record, "update", names), grid(record, "update", names, "a")
    with np.errstate(all="ignore"):
        return replace(update, value=np.where(size.value > 0, update.value / size.value, np.nan))


def path_length(ratios: Grid, steps: int) -> float:
    """The sum of the median update ratio over all `steps` steps: how often the weights could have been replaced.

    Steps that were not sampled count as the nearest that were. NaN where nothing was measured.
    """
    median = ratios.median
    known = np.isfinite(median)
    if not known.any() or steps <= 0:
        return float("nan")
    at, value = ratios.step[known], median[known]
    bounds = np.concatenate([[0], (at[1:] + at[:-1] + 1) // 2, [steps]])
    return float(np.sum(value * np.maximum(np.diff(bounds), 0)))
