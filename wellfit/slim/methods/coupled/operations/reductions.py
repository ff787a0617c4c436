"""Operations over one axis or several: means, largest values, softmax, running sums."""

from __future__ import annotations

from collections.abc import Iterable

from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.coupled.trace import Axes, Call, Rule


def _over(call: Call) -> list[int]:
    """The axes that the operation goes over; all of them where none is named."""
    count = len(call.axes(call["self"]))
    named = call["dim"] if call["dim"] is not None else call["dims"]
    places: Iterable[int] = [named] if isinstance(named, int) else named or range(count)
    return [place % count for place in places] if count else []


def _reduced(call: Call) -> list[Axes]:
    """The result lacks these axes. Over a part of the channels a mean is another number, but a number all the same."""
    axes, over = call.axes(call["self"]), _over(call)
    live = [place for place in over if call.labels.is_free(axes[place]).any()]
    if len(over) == 1 and live and call.name in OVER_THE_KEPT:
        call.trace.restate(axes[live[0]], live[0])
    elif call.name not in SUMS:
        for place in live:
            call.freeze(axes[place])
    left: Axes = []
    for place, axis in enumerate(axes):
        if place not in over:
            left.append(axis)
        elif call["keepdim"]:
            left.append(call.labels.fixed(1))
    return [list(left) for _ in tensors_in(call.result)]


def _kept(call: Call) -> list[Axes]:
    """The result has these axes still (softmax, running sums): all that goes in stays."""
    axes = call.axes(call["self"])
    for place in _over(call):
        call.freeze(axes[place])
    return [list(axes) for _ in tensors_in(call.result)]


OVER_THE_KEPT = ("mean", "var", "std", "var_mean", "std_mean", "amax", "amin")
"""Reductions over channels that are taken over those that are kept, as a norm does."""

SUMS = ("sum", "linalg_vector_norm", "norm")
"""Reductions to which a channel of zeros adds nothing; whether it is one of zeros, the check of a cut finds out."""

REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys(
        [*OVER_THE_KEPT, *SUMS, "max", "min", "logsumexp", "prod", "any", "all", "argmax", "argmin", "median"], _reduced
    ),
    **dict.fromkeys(
        ["_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "sort", "topk", "logcumsumexp"], _kept
    ),
}
