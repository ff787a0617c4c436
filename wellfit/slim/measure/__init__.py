"""What a model costs: parameters, multiply-adds, bytes, and milliseconds on this machine."""

from wellfit.slim.measure.cost import Cost, LayerCost, cost
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import LayerTime, Pair, Timing, by_layer, compare, compare_calmly, latency
from wellfit.slim.measure.size import Size, size

__all__ = [
    "Cost", "Inputs", "LayerCost", "LayerTime", "Pair", "Size", "Timing", "by_layer", "compare", "compare_calmly",
    "cost", "latency", "size",
]  # fmt: skip
