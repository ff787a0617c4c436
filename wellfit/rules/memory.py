"""Recurrent layers: how many moments they look at, what their gradients and weights are, and whether a run that has
them learned anything."""

from __future__ import annotations

import math

import numpy as np

from wellfit.condition import Condition, rise
from wellfit.record import Layer, Record
from wellfit.record.curves import Floats

NEAR_CHANCE = 0.9  # mean loss of the last quarter over that of guessing, or of the start: nothing was learned


def recurrent_layers(record: Record) -> list[Layer]:
    """The recurrent layers (cells as well) that were called, in the order of their first call."""
    return [layer for layer in record.layers.values() if layer.kind == "recurrent" and layer.order >= 0]


def moments(layer: Layer) -> int | None:
    """The number of moments of the first sequence that a layer was given; None of a cell, or where it is packed."""
    shape, first = layer.input_shape, layer.attributes.get("batch_first")
    if layer.class_name not in ("RNN", "LSTM", "GRU") or shape is None or not isinstance(first, bool):
        return None
    if len(shape) == 2:
        return shape[0]
    return shape[1 if first else 0] if len(shape) == 3 else None


def state_weights(layer: Layer) -> list[str]:
    """The names of the weights that lead from one moment's state to the next."""
    return [name for name in layer.parameters if name.rpartition(".")[2].startswith("weight_hh")]


def gradient_sizes(record: Record, name: str) -> Floats:
    """rms of a parameter's gradient at the sampled steps, finite and not 0."""
    size = record.series("gradient", name).rms
    found: Floats = size[np.isfinite(size) & (size > 0)]
    return found


def state_gain(record: Record, name: str) -> float:
    """rms(W) * sqrt(units) of a state weight in the later half of the run: about the radius of its spectrum, by which
    a plain recurrent layer multiplies its state at each moment. NaN where unknown."""
    parameter = record.parameters.get(name)
    if parameter is None or len(parameter.shape) != 2:
        return math.nan
    size = record.series("parameter", name).rms
    size = size[np.isfinite(size)]
    late = float(np.median(size[len(size) // 2 :])) if len(size) else parameter.initial.rms
    return late * math.sqrt(parameter.shape[1])


def time_profiles(record: Record, layer: Layer) -> Floats:
    """The gradient's rms in eight equal parts of time (n, 8), of the samples in which all is finite and not all 0."""
    data = record.series("time_profile", layer.name).data.astype(np.float64)
    return data[np.isfinite(data).all(axis=1) & (data > 0).any(axis=1)] if len(data) else np.empty((0, 8))


def learned_nothing(record: Record, state: Condition) -> bool:
    """Whether the run surely fails, or its last quarter is on average hardly better than guessing, or than the start
    where guessing is not known."""
    if state.adversarial and state.verdict != "non-finite":
        return False
    if state.ill:
        return True
    whole = rise(record.loss())
    if whole is None or state.verdict == "too-short":
        return False
    return whole.late >= NEAR_CHANCE * state.level_from(whole.first) > 0
