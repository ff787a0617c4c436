"""The weights of linear layers as they were when training began, in the order in which the layers are called."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wellfit.record import Layer, Parameter, Record


@dataclass(frozen=True)
class InitialWeight:
    """A weight matrix or convolution kernel and its layer.

    Args:
        gain: rms(w) * sqrt(fan-in): how much larger the layer's output is than its input; 0.58 for torch's default,
            1.41 for He. NaN if the fan-in is unknown.
    """

    layer: Layer
    parameter: Parameter
    gain: float


def initial_weights(record: Record) -> list[InitialWeight]:
    """All weights (two axes or more) of the linear layers that were called, in the order of their first call."""
    by_layer: dict[str, list[Parameter]] = {}
    for parameter in record.parameters.values():
        if len(parameter.shape) >= 2:
            by_layer.setdefault(parameter.layer, []).append(parameter)
    found = []
    for layer in record.layers.values():
        if layer.kind != "linear" or layer.order < 0:
            continue
        for parameter in by_layer.get(layer.name, ()):
            fan = parameter.fan_in
            gain = parameter.initial.rms * math.sqrt(fan) if fan is not None and fan > 0 else math.nan
            found.append(InitialWeight(layer, parameter, gain))
    return found
