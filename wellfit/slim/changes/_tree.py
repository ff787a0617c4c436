"""Modules and tensors of a model by their names, shared ones under all of theirs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from wellfit.slim.changes.change import Unfit


def module_of(model: nn.Module, name: str) -> nn.Module:
    """A module by its name; the model itself for an empty one.

    Raises:
        Unfit: there is none.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise Unfit(f"{type(model).__name__} has no layer {name!r}: is it still the class that was changed?") from None


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another one, at all places where that one is used.

    Raises:
        Unfit: there is none of that name, or it is the model itself.
    """
    old = module_of(model, name)
    if old is model:
        raise Unfit("the model itself cannot be replaced, only its layers")
    for holder in list(model.modules()):
        for key, held in list(holder._modules.items()):
            if held is old:
                holder._modules[key] = module


def tensor_of(model: nn.Module, name: str) -> torch.Tensor:
    """A parameter or buffer by its name.

    Raises:
        Unfit: there is none.
    """
    path, _, key = name.rpartition(".")
    holder = module_of(model, path)
    found: torch.Tensor | None = holder._parameters.get(key)
    if found is None:
        found = holder._buffers.get(key)
    if found is None:
        raise Unfit(f"{type(model).__name__} has no tensor {name!r}: is it still the class that was changed?")
    return found


def put_tensor(model: nn.Module, old: torch.Tensor, values: torch.Tensor) -> list[nn.Module]:
    """Put a tensor in the place of a parameter or buffer, in all modules that share it.

    Returns:
        The modules that hold it.
    """
    new = values.detach()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    holders = []
    for module, key in holders_of(model, old):
        if isinstance(old, nn.Parameter):
            setattr(module, key, new)  # recurrent layers keep lists of their own, which follow
        else:
            module._buffers[key] = new
        if module not in holders:
            holders.append(module)
    return holders


def holders_of(model: nn.Module, tensor: torch.Tensor) -> Iterator[tuple[nn.Module, str]]:
    """The modules that hold a parameter or buffer, and the names that it has there."""
    for module in list(model.modules()):
        for key, held in [*module._parameters.items(), *module._buffers.items()]:
            if held is tensor:
                yield module, key
