"""The layers of a slim model beside those of the dense one: bytes, kept weights, milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import by_layer
from wellfit.slim.planning.applying import Slimmed
from wellfit.slim.planning.coding import tensors_of
from wellfit.slim.wfz import Contents, Stored


def by_layers(
    dense: nn.Module, slim: nn.Module, contents: Contents, given: Inputs, slimmed: Slimmed | None, seconds: float
) -> list[dict[str, Any]]:
    """Each layer of the dense model, with all that has come of it; what belongs to none stands last, without a name."""
    names = [
        name for name, module in dense.named_modules() if name and any(True for _ in module.parameters(recurse=False))
    ]
    times = [_times(model, given, seconds / 2) for model in (dense, slim)]
    sizes = tensors_of(dense)
    found = []
    for name in [*names, ""]:
        mine = [stored for key, stored in contents.stored.items() if _owner(key, names) == name]
        before = [tensor for key, tensor in sizes.items() if _owner(key, names) == name]
        if not mine and not before:
            continue
        found.append({
            "name": name, "kind": type(dense.get_submodule(name)).__name__,
            "parameters": sum(tensor.numel() for tensor in before),
            "steps": [asdict(step) for step in slimmed.steps if step.layer == name] if slimmed else [],
            "dense_bytes": sum(tensor.numel() * tensor.element_size() for tensor in before), **_stored(mine),
            "dense_ms": _time_of(name, names, times[0]), "slim_ms": _time_of(name, names, times[1]),
        })  # fmt: skip
    return found


def _stored(tensors: Sequence[Stored]) -> dict[str, Any]:
    """Of the tensors of a layer in the file: those of two dimensions and more for the shares, all for the bytes."""
    own = [stored for stored in tensors if stored.tied_to is None]
    weights = [stored for stored in own if len(stored.shape) > 1] or own
    numbers = [math.prod(stored.shape) for stored in weights]
    total = sum(numbers)
    return {
        "bytes": sum(stored.bytes for stored in own),
        "numbers": sum(math.prod(stored.shape) for stored in own),
        "kept": sum(stored.kept * count for stored, count in zip(weights, numbers)) / total if total else 1.0,
        "values": max((stored.distinct for stored in weights), default=0),
        "bits": 8 * sum(stored.bytes for stored in weights) / total if total else 0.0,
        "tied_to": next((stored.tied_to for stored in tensors if stored.tied_to is not None), None),
    }


def _owner(tensor: str, layers: Sequence[str]) -> str:
    """The innermost layer that a tensor's name lies in."""
    return max((name for name in layers if tensor.startswith(f"{name}.")), key=len, default="")


def _times(model: nn.Module, given: Inputs, seconds: float) -> dict[str, float]:
    try:
        one = given.resized(1)
        return {time.name: time.p50 for time in by_layer(model, one, seconds=seconds)}
    except Exception:  # a model that takes no batch of one sample
        return {time.name: time.p50 for time in by_layer(model, given, seconds=seconds)}


def _time_of(name: str, layers: Sequence[str], times: Mapping[str, float]) -> float | None:
    inside = [milliseconds for module, milliseconds in times.items() if _owner(f"{module}.", layers) == name]
    return sum(inside) if inside and name else None
