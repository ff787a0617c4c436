"""Weights as torch's constructors make them: nobody loaded or trained them before."""

from __future__ import annotations

import math

from wellfit.record import Parameter, Record


def is_fresh(record: Record, parameter: Parameter, tolerance: float = 0.1) -> bool:
    """Whether a weight looks freshly made: uniform up to 1/sqrt(fan-in), or N(0, 1) for an embedding.

    Args:
        tolerance: relative, of its rms.
    """
    rms, amax = parameter.initial.rms, parameter.initial.amax
    layer = record.layers.get(parameter.layer)
    if layer is not None and layer.kind == "embedding":
        return parameter.size >= 50 and abs(rms - 1) < tolerance and abs(parameter.initial.std - 1) < 0.1
    fan = layer.attributes.get("hidden_size") if layer is not None and layer.kind == "recurrent" else parameter.fan_in
    if not isinstance(fan, int) or fan < 1 or not math.isfinite(rms) or parameter.size < 8:
        return False
    bound = 1 / math.sqrt(fan)
    # Few elements scatter about the expected rms: that of n uniform numbers is off by about 0.45/sqrt(n).
    slack = tolerance + 1.4 / math.sqrt(parameter.size)
    return abs(rms * math.sqrt(3) / bound - 1) < slack and 0.6 * bound < amax <= bound * 1.0001
