"""Operations that only move elements: the labels move with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.coupled.labels import Label, viewed
from wellfit.slim.methods.coupled.trace import Axes, Call, Rule


def _view(call: Call) -> list[Axes]:
    if not call["self"].numel():
        return call.freeze_all()
    return [viewed(call.trace, call.axes(call["self"]), list(result.shape)) for result in tensors_in(call.result)]


def _permute(call: Call) -> list[Axes]:
    axes = call.axes(call["self"])
    return [[axes[place] for place in call["dims"]]]


def _transpose(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    if axes:
        one, other = call["dim0"], call["dim1"]
        axes[one], axes[other] = axes[other], axes[one]
    return [axes]


def _t(call: Call) -> list[Axes]:
    return [list(call.axes(call["self"]))[::-1]]


def _expand(call: Call) -> list[Axes]:
    axes = call.axes(call["self"])
    shape = list(call.result.shape)
    front = len(shape) - len(axes)
    return [
        [
            axes[place - front]
            if place >= front and len(axes[place - front]) == size
            else call.labels.fresh(size, stretched=True)
            for place, size in enumerate(shape)
        ]
    ]


def _unsqueeze(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    place = call["dim"]
    axes.insert(place if place >= 0 else place + len(axes) + 1, call.labels.fixed(1))
    return [axes]


def _squeeze(call: Call) -> list[Axes]:
    """Axes of one index are left out: all of them or those that are named."""
    axes = call.axes(call["self"])
    named = call["dim"]
    places = range(len(axes)) if named is None else [named] if isinstance(named, int) else named
    gone = {place % max(len(axes), 1) for place in places}
    return [[axis for place, axis in enumerate(axes) if not (place in gone and len(axis) == 1)]]


def _along(call: Call, piece: Sequence[int] | slice | Label) -> Axes:
    axes = list(call.axes(call["self"]))
    axes[call["dim"]] = axes[call["dim"]][piece]
    return axes


def _slice(call: Call) -> list[Axes]:
    return [_along(call, slice(call["start"], call["end"], call["step"]))]


def _select(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    taken = axes.pop(call["dim"])
    call.trace.note_taken_apart(taken)
    call.freeze(taken[[call["index"]]], "one index of it is picked by its number")
    return [axes]


def _unbind(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    taken = axes.pop(call["dim"])
    call.trace.note_taken_apart(taken)
    call.freeze(taken, "its indices are taken apart")
    return [list(axes) for _ in call.result]


def _split(call: Call) -> list[Axes]:
    pieces, start = [], 0
    for piece in call.result:
        size = piece.shape[call["dim"]]
        pieces.append(_along(call, slice(start, start + size)))
        start += size
    return pieces


def _cat(call: Call) -> list[Axes]:
    parts = [call.axes(tensor) for tensor in call["tensors"] if tensor.dim() > 1 or tensor.numel()]
    place = call["dim"] % call.result.dim()
    joined = list(parts[0])
    for part in parts[1:]:
        for other in range(len(joined)):
            if other != place:
                call.unite(joined[other], part[other])
    joined[place] = np.concatenate([part[place] for part in parts])
    return [joined]


def _stack(call: Call) -> list[Axes]:
    parts = [call.axes(tensor) for tensor in call["tensors"]]
    joined = list(parts[0])
    for part in parts[1:]:
        for one, other in zip(joined, part):
            call.unite(one, other)
    joined.insert(call["dim"] % call.result.dim(), call.labels.fixed(len(parts)))
    return [joined]


def _pad(call: Call) -> list[Axes]:
    """Padded indices stay, since their number stands in the model's code; what lies between them may go."""
    axes = list(call.axes(call["self"]))
    for back in range(len(call["pad"]) // 2):
        before, after = call["pad"][2 * back : 2 * back + 2]
        if min(before, after) < 0:
            return call.freeze_all()
        place = len(axes) - 1 - back
        if before or after:
            added = call.labels.fresh(before + after)
            call.freeze(added, "it is padded with a number of zeros that the model's code fixes")
            axes[place] = np.concatenate([added[:before], axes[place], added[before:]])
    return [axes]


def _flip(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    for place in call["dims"]:
        axes[place] = axes[place][::-1].copy()
    return [axes]


def _repeat(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    repeats = list(call["repeats"])
    axes = [call.labels.fixed(1) for _ in range(len(repeats) - len(axes))] + axes
    return [[np.tile(axis, count) for axis, count in zip(axes, repeats)]]


def _picked(call: Call) -> list[Axes]:
    """`x[indices]`: the axes that are indexed stay; the others pass, if the indices lie side by side."""
    axes, indices = call.axes(call["self"]), list(call["indices"])
    used = [place for place, index in enumerate(indices) if index is not None]
    if not used or used != list(range(used[0], used[-1] + 1)):
        return call.freeze_all()
    chosen = [indices[place] for place in used]
    if any(_is_mask(index) for index in chosen):
        return _masked(call, axes, used[0], chosen)
    for place in used:
        call.freeze(axes[place], "its indices are picked by number")
    shape = torch.broadcast_tensors(*chosen)[0].shape  # type: ignore[no-untyped-call]
    inner = [call.labels.fixed(size) for size in shape]
    return [[*axes[: used[0]], *inner, *axes[used[-1] + 1 :]]]


def _is_mask(index: torch.Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _masked(call: Call, axes: Axes, place: int, masks: list[torch.Tensor]) -> list[Axes]:
    """`x[mask]`: the axes of the mask become one, the others pass."""
    if len(masks) > 1:
        return call.freeze_all()
    after = place + masks[0].dim()
    for axis in axes[place:after]:
        call.freeze(axis, "its indices are picked by a mask")
    return [[*axes[:place], call.labels.fixed(call.result.shape[place]), *axes[after:]]]


def _put(call: Call) -> list[Axes]:
    """`x[indices] = values`, where the indices are for the first axes: the last axes of both belong together."""
    axes, indices = call.axes(call["self"]), call["indices"]
    if any(index is None for index in indices):
        return call.freeze_all()
    used = sum(index.dim() if _is_mask(index) else 1 for index in indices)
    for axis in axes[:used]:
        call.freeze(axis, "its indices are picked by number")
    values = call.axes(call["values"])
    passed = axes[used:]
    for back in range(1, len(values) + 1):
        if back > len(passed) or len(values[-back]) != len(passed[-back]):
            call.freeze(values[-back], "its indices are picked by number")
        else:
            call.unite(passed[-back], values[-back])
    return [list(axes)]


def _looked_up(call: Call) -> list[Axes]:
    """`index_select`: the axis that is indexed stays."""
    axes = list(call.axes(call["self"]))
    call.freeze(axes[call["dim"]], "its indices are picked by number")
    axes[call["dim"]] = call.labels.fixed(call.result.shape[call["dim"]])
    return [axes]


def _triangle(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    for axis in axes[-2:]:
        call.freeze(axis)
    return [axes]


def _roll(call: Call) -> list[Axes]:
    axes = list(call.axes(call["self"]))
    for place in call["dims"] or range(len(axes)):
        call.freeze(axes[place], "its indices are shifted")
    return [axes]


SHAPES: dict[str, Rule] = {
    "view": _view, "_unsafe_view": _view, "reshape": _view, "_reshape_alias": _view, "permute": _permute,
    "transpose": _transpose, "t": _t, "expand": _expand, "unsqueeze": _unsqueeze, "squeeze": _squeeze,
    "slice": _slice, "select": _select, "unbind": _unbind, "split": _split, "unsafe_split": _split,
    "split_with_sizes": _split, "unsafe_split_with_sizes": _split, "chunk": _split, "cat": _cat, "stack": _stack,
    "constant_pad_nd": _pad, "flip": _flip, "repeat": _repeat, "index": _picked, "index_put": _put,
    "index_select": _looked_up,
    "tril": _triangle, "triu": _triangle, "roll": _roll,
}  # fmt: skip
