"""Operations that treat each element alone: axes that meet belong together."""

from __future__ import annotations

import torch

from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.coupled.trace import Axes, Call, Rule


def pointwise(call: Call) -> list[Axes]:
    """One or several tensors, broadcast against each other; the results are of one shape.

    An axis of one index is stretched, so it does not hang together with those that it meets.
    """
    inputs = call.tensors()
    results = list(tensors_in(call.result))
    return [_met(call, inputs, list(result.shape)) for result in results]


def _met(call: Call, inputs: list[torch.Tensor], shape: list[int]) -> Axes:
    axes: Axes = []
    for back in range(len(shape), 0, -1):
        size = shape[-back]
        meeting = [call.axes(x)[-back] for x in inputs if x.dim() >= back and x.shape[-back] == size]
        for other in meeting[1:]:
            call.unite(meeting[0], other)
        axes.append(meeting[0] if meeting else call.labels.fixed(size))
    return axes


def made(call: Call) -> list[Axes]:
    """A tensor that the forward pass makes itself (`torch.zeros`): it may take any size, as its labels come to say."""
    return [[call.labels.fresh(size) for size in tensor.shape] for tensor in tensors_in(call.result)]


def like_first(call: Call) -> list[Axes]:
    """The result has the axes of the first tensor, and each element comes from the one at its place."""
    return [list(call.axes(call.tensors()[0]))]


def _glu(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    place = call["dim"]
    half = len(axes[place]) // 2
    call.unite(axes[place][:half], axes[place][half:])
    axes[place] = axes[place][:half]
    return [axes]


def _prelu(call: Call) -> list[Axes]:
    axes = call.axes(call["self"])
    weight = call.axes(call["weight"])
    for place, axis in enumerate(weight):
        if len(axis) > 1 or len(axes[place]) == 1:
            call.unite(axis, axes[place])
        else:
            call.freeze(axis)
    return [list(axes)]


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(
        ["clone", "detach", "alias", "_to_copy", "contiguous", "zeros_like", "ones_like", "empty_like", "full_like",
         "rand_like", "randn_like", "fill", "zero", "lift_fresh", "bernoulli", "nan_to_num", "threshold"],
        like_first,
    ),
    **dict.fromkeys(["new_zeros", "new_ones", "new_empty", "new_full"], made),
    **dict.fromkeys(["copy", "lerp", "masked_fill", "where"], pointwise),
    "glu": _glu,
    "_prelu_kernel": _prelu,
}  # fmt: skip
