"""A model with channels that are there but contribute nothing: what a cut is checked against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wellfit.slim.changes._tree import tensor_of
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import plain_operations
from wellfit.slim.methods.coupled.groups import Group, Indices, Place
from wellfit.slim.methods.coupled.trace import is_counted, plain_name

Gone = Mapping[Place, Indices]
"""For each axis the indices that are left out."""


def gone_of(kept: Mapping[Group, Indices]) -> dict[Place, Indices]:
    """Which indices of which axes go, where these channels of the groups are kept; groups may share an axis."""
    gone: dict[Place, list[Indices]] = {}
    for group, channels in kept.items():
        left_out = np.setdiff1d(np.arange(group.channels), channels)
        for place, members in zip(group.places, group.members):
            gone.setdefault(place, []).append(members[left_out].reshape(-1))
    return {place: indices for place, parts in gone.items() if (indices := np.unique(np.concatenate(parts))).size}


def zero(model: nn.Module, gone: Gone) -> None:
    """Zero all that would be cut: weights that make the channels, biases, scales of norms, weights that use them.

    Whatever activations make of a zero, nothing of it reaches the other channels then.
    """
    with torch.no_grad():
        for place, indices in gone.items():
            tensor_of(model, place.tensor).index_fill_(place.axis, torch.from_numpy(indices), 0)


def masked_result(model: nn.Module, inputs: Inputs, kept: Mapping[Group, Indices]) -> Any:
    """What a model on the CPU returns whose channels were zeroed, where norms and means go over those that are kept."""
    with plain_operations(), _OverTheKept(kept):
        return inputs.call(model)


class _OverTheKept(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations that go over channels leave out those that are not kept; calls are counted as the trace did."""

    def __init__(self, kept: Mapping[Group, Indices]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls = 0
        self._gone: dict[int, tuple[int, list[Indices]]] = {}
        for group, channels in kept.items():
            left_out = np.setdiff1d(np.arange(group.channels), channels)
            for number, (axis, members) in group.restated.items():
                self._gone.setdefault(number, (axis, []))[1].append(members[left_out].reshape(-1))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls += is_counted(func)
        if self._calls not in self._gone or not is_counted(func):
            return func(*args, **(kwargs or {}))
        axis, gone = self._gone[self._calls]
        order = np.setdiff1d(np.arange(args[0].shape[axis]), np.concatenate(gone))
        kept = torch.from_numpy(order)
        narrow = args[0].index_select(axis, kept)
        name = plain_name(func)
        if name not in ("native_layer_norm", "native_group_norm"):
            return func(narrow, *args[1:], **(kwargs or {}))
        scale, shift = (None if tensor is None else tensor[kept] for tensor in _affine(name, args))
        if name == "native_layer_norm":
            results = func(narrow, [len(kept)], scale, shift, args[4])
        else:
            results = func(narrow.contiguous(), scale, shift, args[3], len(kept), args[5], 1, args[7])
        return torch.zeros_like(args[0]).index_copy(axis, kept, results[0]), *results[1:]


def _affine(name: str, args: tuple[Any, ...]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    return (args[2], args[3]) if name == "native_layer_norm" else (args[1], args[2])
