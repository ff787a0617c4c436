"""Sizes that modules keep as numbers of their own, and that a cut has to change with the tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, islice

import numpy as np
from torch import nn

from wellfit.slim.changes._attention import SlimAttention
from wellfit.slim.changes.cut import Setting
from wellfit.slim.methods.coupled.groups import Group, Indices, Place

Settings = tuple[Setting, ...]

_MOST_TRIED = 40  # each one is a forward pass of a copy
_MOST_TOGETHER = 2


def head_settings(model: nn.Module, gone: Mapping[Place, Indices]) -> Settings:
    """How many heads are left of each attention module of torch's own (or of ours) whose heads are cut."""
    found: list[Setting] = []
    by_axis = {(place.tensor, place.axis): indices for place, indices in gone.items()}
    for path, module in model.named_modules():
        if not isinstance(module, (nn.MultiheadAttention, SlimAttention)):
            continue
        indices = by_axis.get((f"{path}.out_proj.weight" if path else "out_proj.weight", 1))
        if indices is None:
            continue
        left = np.ones(module.out_proj.in_features, dtype=bool)
        left[indices] = False
        heads = int(left.reshape(module.num_heads, -1).any(axis=1).sum())
        if heads != module.num_heads:
            found.append((path, "num_heads", heads))
    return tuple(found)


def proposals(model: nn.Module, chosen: Mapping[Group, Indices], gone: Mapping[Place, Indices]) -> Iterator[Settings]:
    """Settings that might mend a cut, likely ones first: all numbers of users' modules that were a size, then each
    alone, then two."""
    single = list(_numbers(model, _sizes(chosen, gone)))
    first = {(path, attribute): (path, attribute, value) for path, attribute, value in reversed(single)}
    few = (
        choice
        for count in range(1, _MOST_TOGETHER + 1)
        for choice in combinations(single, count)
        if len({setting[:2] for setting in choice}) == count
    )
    yield from islice(dict.fromkeys([tuple(first.values()), *few] if single else []), _MOST_TRIED)


def _sizes(chosen: Mapping[Group, Indices], gone: Mapping[Place, Indices]) -> dict[int, int]:
    """What sizes become: whole axes, the number of channels (heads), and multiples of it (heads of queries, where each
    channel is a head of keys)."""
    sizes = {place.size: place.size - len(indices) for place, indices in gone.items()}
    for group, channels in chosen.items():
        for place in group.places:
            for count in range(group.channels, place.size + 1, group.channels):
                if place.size % count == 0:
                    sizes.setdefault(count, count * len(channels) // group.channels)
    return sizes


def _numbers(model: nn.Module, sizes: Mapping[int, int]) -> Iterator[Setting]:
    for path, module in model.named_modules():
        own = not type(module).__module__.startswith(("torch.", "wellfit."))
        if not own and not isinstance(module, nn.Unflatten):
            continue
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or attribute == "training":
                continue
            if type(value) is int and value in sizes:
                yield path, attribute, sizes[value]
            elif isinstance(value, (tuple, list)) and all(type(item) is int for item in value):
                for place, item in enumerate(value):
                    if item in sizes:
                        yield path, attribute, (*value[:place], sizes[item], *value[place + 1 :])
