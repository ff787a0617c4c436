"""Update ratios: how far one step moves each weight, relative to the size of the weight."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from wellfit.record import Parameter, Record
from wellfit.record.curves import Floats, Steps


@dataclass(frozen=True)
class Ratios:
    """rms(update) / rms(weight) of every weight at every sampled step.

    Args:
        step: int64 (n,), rising.
        names: of the weights.
        value: float64 (len(names), n); NaN where a weight was not measured.
    """

    step: Steps
    names: tuple[str, ...]
    value: Floats

    @property
    def median(self) -> Floats:
        """Over the weights, for each step (n,); NaN where none was measured."""
        return _over_weights(np.nanmedian, self)

    @property
    def largest(self) -> Floats:
        """Over the weights, for each step (n,); NaN where none was measured."""
        return _over_weights(np.nanmax, self)

    def typical(self, begin: int = 0) -> float:
        """Median over the weights, and then over the steps from `begin` on; 0 where nothing was measured."""
        median = self.median[self.step >= begin]
        known = median[~np.isnan(median)]
        return float(np.median(known)) if len(known) else 0.0


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


def update_ratios(record: Record) -> Ratios:
    """The update ratios of all weights; empty where nothing was measured."""
    series = [record.series("update", parameter.name) for parameter in weights(record)]
    series = [one for one in series if len(one)]
    if not series:
        return Ratios(np.empty(0, np.int64), (), np.empty((0, 0)))
    step = np.unique(np.concatenate([one.step for one in series]))
    value = np.full((len(series), len(step)), np.nan)
    for row, one in enumerate(series):
        with np.errstate(all="ignore"):
            ratio = np.where(one.a > 0, one.rms / one.a, np.nan)
        value[row, np.searchsorted(step, one.step)] = ratio
    return Ratios(step, tuple(one.subject for one in series), value)


def path_length(ratios: Ratios, steps: int) -> float:
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


def _over_weights(function: Callable[..., Floats], ratios: Ratios) -> Floats:
    if not len(ratios.names):
        return np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step at which nothing was measured is NaN
        return np.asarray(function(ratios.value, axis=0), np.float64)
