"""Weights that nobody loaded or trained before: as torch's constructors make them, or drawn as papers say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from wellfit.record import Parameter, Record

_FEWEST = 200  # elements from which on the largest of them says how they were drawn
_GPT = 0.02  # standard deviation of GPT's and BERT's weights
_DEEPEST = 48  # blocks of GPT-2's largest; the last weights of n blocks are drawn 1/sqrt(2n) as large
_TANH = 5 / 3  # gain that Glorot's rule takes for tanh


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


def all_new(record: Record, parameters: Sequence[Parameter]) -> bool:
    """Whether all of some weights look freshly made, by torch or as He, Glorot or GPT's authors draw them.

    A single trained weight may look as if it were drawn; that all of several do is no chance.
    """
    return bool(parameters) and all(is_fresh(record, one) or _is_drawn(one) for one in parameters)


def _is_drawn(parameter: Parameter) -> bool:
    """Whether a weight has mean 0, one of the usual sizes, and no element larger than numbers drawn like that have.

    Training makes the tails of weights heavier than those of a normal distribution.
    """
    size, first = parameter.size, parameter.initial
    if size < _FEWEST or len(parameter.shape) < 2 or not first.rms > 0 or not math.isfinite(first.amax):
        return False
    slack = 3 / math.sqrt(size)
    mean = math.sqrt(max(first.rms**2 - first.std**2, 0.0))
    if mean > 4 / math.sqrt(size) * first.rms:
        return False
    tail = first.amax / first.rms
    uniform = math.sqrt(3) * 0.97 < tail < math.sqrt(3) * 1.03
    return (uniform or _is_normal_tail(tail, size)) and any(
        abs(first.rms / usual - 1) < 0.01 + slack for usual in _usual_sizes(parameter.shape)
    )


def _is_normal_tail(tail: float, size: int) -> bool:
    """Whether the largest of so many normal numbers, over their standard deviation, may be this one."""
    scale = math.sqrt(2 * math.log(2 * size))
    expected = scale - (math.log(math.log(2 * size)) + math.log(4 * math.pi)) / (2 * scale)
    return expected - 2.5 / scale < tail < expected + 6 / scale  # Gumbel's law: 1 in 10^4 below, 1 in 400 above


def _usual_sizes(shape: Sequence[int]) -> Iterable[float]:
    """Standard deviations that initialisations give to a weight of this shape."""
    field = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * field, shape[0] * field
    xavier = math.sqrt(2 / (fan_in + fan_out))
    last = (_GPT / math.sqrt(2 * blocks) for blocks in range(1, _DEEPEST + 1))
    return (math.sqrt(2 / fan_in), math.sqrt(2 / fan_out), math.sqrt(1 / fan_in), xavier, _TANH * xavier, _GPT, *last)
