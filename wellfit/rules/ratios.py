"""Update ratios: how far one step moves each weight, relative to the size of the weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wellfit.record import Parameter, Record
from wellfit.rules.fresh import all_new, is_fresh
from wellfit.rules.grids import Grid, grid

STILL = 0.1  # path length of new weights that have learned nothing; healthy runs have 0.34 and more, of 60 steps too
FEWEST = 100  # steps before that is asked


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
    """How far the weights came: the sum of a weight's update ratio over all its steps, median over the weights.

    At 1 a weight could have been replaced. Steps that were not sampled count as the nearest that were; a weight whose
    model was trained in a part of the run only counts for that part. NaN where nothing was measured.

    Args:
        steps: of the run.
    """
    if not len(ratios.step) or steps <= 0:
        return float("nan")
    bounds = np.concatenate([[0], (ratios.step[1:] + ratios.step[:-1] + 1) // 2, [max(steps, ratios.step[-1] + 1)]])
    paths = []
    for value in ratios.value:
        known = np.flatnonzero(np.isfinite(value))
        if not len(known):
            continue
        at = ratios.step[known]
        own = np.concatenate([[bounds[known[0]]], (at[1:] + at[:-1] + 1) // 2, [bounds[known[-1] + 1]]])
        paths.append(float(np.sum(value[known] * np.diff(own))))
    return float(np.median(paths)) if paths else float("nan")


def stands_still(record: Record) -> bool:
    """Whether the new weights, as torch makes them, have hardly left their place in so many steps.

    Nothing can have been learned yet; whatever the loss did is then not of the training's making.
    """
    if record.step_count < FEWEST:
        return False
    trained = weights(record)
    new = trained if all_new(record, trained) else [one for one in trained if is_fresh(record, one)]
    fresh = {parameter.name for parameter in new}
    return bool(path_length(update_ratios(record).only(fresh), record.step_count) < STILL)
