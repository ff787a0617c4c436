"""Tensors inside of what models and loaders hand around: tuples, lists, dictionaries and objects that hold them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same tuples, lists, dictionaries and data classes with each tensor changed; what is anything else stays the
    same object.

    So does a tuple of a class that takes something else than its items, and a data class without tensors.
    """
    return _mapped(value, change, {})


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor], seen: dict[int, Any]) -> Any:
    """`seen`: by the id of each data class what it became, as such objects often know each other."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        order = (None if index is None else change(index) for index in (value.sorted_indices, value.unsorted_indices))
        return PackedSequence(change(value.data), value.batch_sizes, *order)
    if isinstance(value, tuple):
        items = [_mapped(item, change, seen) for item in value]
        try:
            return value._make(items) if hasattr(value, "_make") else type(value)(items)
        except Exception:  # a class of the script's that is made in another way
            return value
    if isinstance(value, list):
        return [_mapped(item, change, seen) for item in value]
    if isinstance(value, dict):
        changed = copy.copy(value)  # of its own class: models give back such that are more than a dictionary
        for key, item in value.items():
            changed[key] = _mapped(item, change, seen)
        return changed
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapped_fields(value, change, seen)
    return value


def _mapped_fields(value: Any, change: Callable[[torch.Tensor], torch.Tensor], seen: dict[int, Any]) -> Any:
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    if next(tensors_in(value), None) is None:
        return value
    try:
        changed = seen[id(value)] = copy.copy(value)
    except Exception:  # a class of the script's that cannot be copied
        return value
    for field in dataclasses.fields(value):
        if hasattr(value, field.name):  # past `__setattr__`, which refuses where the class is frozen
            object.__setattr__(changed, field.name, _mapped(getattr(value, field.name), change, seen))
    return changed


def tensors_in(value: Any, depth: int = 6) -> Iterator[torch.Tensor]:
    """All tensors of a structure, those in the fields of a data class or a distribution too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth:
        for item in _held(value):
            yield from tensors_in(item, depth - 1)


def reals_in(value: Any) -> Iterator[torch.Tensor]:
    """The floating-point tensors of a structure."""
    return (tensor for tensor in tensors_in(value) if tensor.is_floating_point())


def _held(value: Any) -> tuple[Any, ...]:
    if isinstance(value, (tuple, list)):
        return tuple(value)
    if isinstance(value, dict):
        return tuple(value.values())
    if isinstance(value, torch.distributions.Distribution) or dataclasses.is_dataclass(value):
        return tuple(getattr(value, "__dict__", {}).values())
    return ()
