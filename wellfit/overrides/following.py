"""Optimizers follow a model whose parameters were replaced or added to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def follow_parameters(root: nn.Module, before: Sequence[tuple[str, nn.Parameter]], optimizers: Sequence[Any]) -> bool:
    """Make optimizers hold the parameters that a model has now.

    What is no longer in the model leaves the groups. What is new takes the place of the parameter that had its name, or
    else stands behind its predecessor in the model, in the same group. The lists are changed in place: an optimizer
    may have kept another reference to them.

    Args:
        root: the model.
        before: its named parameters before the change.
        optimizers: all there are; those that hold nothing of this model are left alone.

    Returns:
        whether anything was changed.
    """
    now = list(root.named_parameters())
    kept = {id(parameter) for _, parameter in now}
    old = dict(before)
    gone = [parameter for _, parameter in before if id(parameter) not in kept]
    known = {id(parameter) for _, parameter in before}
    new = [(index, name, parameter) for index, (name, parameter) in enumerate(now) if id(parameter) not in known]
    if not new and not gone:
        return False
    for optimizer in optimizers:
        for index, name, parameter in new:
            twin = old.get(name)
            if twin is not None and _replace(optimizer, twin, parameter):
                continue
            predecessors = [other for _, other in reversed(now[:index])]
            successors = [other for _, other in now[index + 1 :]]
            for neighbour in [*predecessors, *successors, *(old[n] for n in old)]:
                if _insert_behind(optimizer, neighbour, parameter):
                    break
        for parameter in gone:
            _remove(optimizer, parameter)
    return True


def _place(optimizer: Any, parameter: nn.Parameter) -> tuple[list[Any], int] | None:
    for group in optimizer.param_groups:
        for index, held in enumerate(group["params"]):
            if held is parameter:
                return group["params"], index
    return None


def _replace(optimizer: Any, old: nn.Parameter, new: nn.Parameter) -> bool:
    found = _place(optimizer, old)
    if found is None:
        return False
    held, index = found
    held[index] = new
    optimizer.state.pop(old, None)
    return True


def _insert_behind(optimizer: Any, neighbour: nn.Parameter, new: nn.Parameter) -> bool:
    found = _place(optimizer, neighbour)
    if found is None:
        return False
    held, index = found
    held.insert(index + 1, new)
    return True


def _remove(optimizer: Any, parameter: nn.Parameter) -> None:
    found = _place(optimizer, parameter)
    if found is not None:
        held, index = found
        del held[index]
        optimizer.state.pop(parameter, None)
