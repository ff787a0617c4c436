"""Optimizers follow a model whose parameters were replaced or added to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def follow_parameters(root: nn.Module, before: Sequence[tuple[str, nn.Parameter]], optimizers: Sequence[Any]) -> bool:
    """Make optimizers hold the parameters that a model has now.

    What is no longer in the model leaves the groups. What is new takes the place of the parameter that had its name, or
    else stands behind one other, its nearest neighbour in the layer that it belongs to (in the whole model where that
    layer had no parameters): wherever that one is held, and nowhere if none of the layer is. It takes no gradient where
    nothing of its layer does. The lists are changed in place: an optimizer may have kept another reference to them.

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
    # Optimizers that wrap others share their lists.
    lists = list({id(group["params"]): group["params"] for each in optimizers for group in each.param_groups}.values())
    for index, name, parameter in new:
        twin = old.get(name)
        layer = _layer(name, old)
        models = [twin] if twin is not None else [other for key, other in before if key.startswith(layer)]
        if models and not any(model.requires_grad for model in models):
            parameter.requires_grad_(False)
        if twin is not None:
            _put(lists, twin, *([twin] if id(twin) in kept else []), parameter)
            continue
        neighbours = [*reversed(now[:index]), *now[index + 1 :], *before]
        for neighbour in (other for key, other in neighbours if key.startswith(layer)):
            if _put(lists, neighbour, neighbour, parameter):
                break
    for parameter in gone:
        _put(lists, parameter)
        for optimizer in optimizers:
            optimizer.state.pop(parameter, None)
    return True


def _layer(name: str, old: dict[str, nn.Parameter]) -> str:
    """What the names of a layer's parameters begin with: the innermost module around a new one that had some before."""
    parts = name.split(".")[:-1]
    for end in range(len(parts), 0, -1):
        start = ".".join(parts[:end]) + "."
        if any(key.startswith(start) for key in old):
            return start
    return ""


def _put(lists: list[list[Any]], parameter: nn.Parameter, *instead: nn.Parameter) -> bool:
    """Put others (or none, or it among them) in the place of a parameter; False if no list holds it."""
    held = False
    for each in lists:
        for index, other in enumerate(each):
            if other is parameter:
                each[index : index + 1] = instead
                held = True
                break
    return held
