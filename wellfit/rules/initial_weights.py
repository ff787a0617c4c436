"""The weights of linear layers as they were when training began, in the order in which the layers are called."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wellfit.finding import Location
from wellfit.record import Layer, Parameter, Record
from wellfit.source import init_call


@dataclass(frozen=True)
class InitialWeight:
    """A weight matrix or convolution kernel and its layer.

    Args:
        fan_in: products that are summed for one number of the output; 0 if unknown.
    """

    layer: Layer
    parameter: Parameter
    fan_in: float

    @property
    def gain(self) -> float:
        """rms(w) * sqrt(fan-in): how much larger the layer's output is than its input; 0.58 for torch's default, 1.41
        for He. NaN if the fan-in is unknown."""
        return self.parameter.initial.rms * math.sqrt(self.fan_in) if self.fan_in > 0 else math.nan


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
        found += [InitialWeight(layer, one, _fan_in(layer, one)) for one in by_layer.get(layer.name, ())]
    return found


def bias_set(record: Record) -> Location | None:
    """The line of the program that sets biases to a number."""
    return init_call(record, ("constant_", "fill_", "full_like"), "bias")


def _fan_in(layer: Layer, parameter: Parameter) -> float:
    """Of a transposed convolution too, whose kernels (in, out / groups, ...) meet an output once every stride."""
    if not layer.class_name.startswith("ConvTranspose"):
        return float(parameter.fan_in or 0)
    stride, outputs = layer.attributes.get("stride"), layer.attributes.get("out_channels")
    if not isinstance(stride, list) or not isinstance(outputs, int):
        return 0.0
    groups = outputs / parameter.shape[1]
    return parameter.shape[0] / groups * math.prod(parameter.shape[2:]) / math.prod(stride)
