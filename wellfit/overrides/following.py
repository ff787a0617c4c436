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
            if twin is not None and _put(optimizer, twin, parameter):
                continue
            predecessors = [other for _, other in reversed(now[:index])]
            successors = [other for _, other in now[index + 1 :]]
            for neighbour in [*predecessors, *successors, *(old[n] for n in old)]:
                if _put(optimizer, neighbour, neighbour, parameter):
                    break
        for parameter in gone:
            _put(optimizer, parameter)
    return True


def _put(optimizer: Any, parameter: nn.Parameter, *instead: nn.Parameter) -> bool:
    """Put others (or none, or it among them) in the place of a parameter; False if the optimizer does not hold it."""
    for group in optimizer.param_groups:
        for index, held in enumerate(group["params"]):
            if held is parameter:
                group["params"][index : index + 1] = instead
                if all(other is not parameter for other in instead):
                    optimizer.state.pop(parameter, None)
                return True
    return False
