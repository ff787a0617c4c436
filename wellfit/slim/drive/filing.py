"""Weights that keep-weights has written, as a `.wfz` file."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.errors import WellfitError
from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.plan import Plan
from wellfit.slim.wfz import Same, Stored, Written, write
from wellfit.slim.wfz.numbers import Given
from wellfit.slim.wfz.safetensors import read

_LARGEST, _SMALLEST = 60000.0, 1e-4
"""Of float16: numbers between these lose 11 bits of their mantissa at most."""


def write_file(weights: Path, network: Network, to: Path, *, is_rounded: bool) -> Written:
    """Write the file of one try, with the changes that the network's structure went through.

    Args:
        weights: of the safetensors; what is known of them lies beside them.
        network: whose tensors they are.
        to: the file.
        is_rounded: whether the values that layers share become float16, and biases, norms and what else is of 32 bits
            bfloat16. They keep their type: the file has room for what they are.

    Layers that see the signs of their inputs become the change `Binary`; whole numbers times scales stay what they are.

    Raises:
        WellfitError: a file cannot be read or written.
    """
    tensors, metadata = read(weights)
    made = _made(weights)
    tied = dict(json.loads(metadata.get("wellfit", "{}")).get("tied", []))
    order = [name for name in network.tensors if name in tensors] + [
        name for name in tensors if name not in network.tensors
    ]
    given: dict[str, Given | Same] = {}
    changes = changes_beside(weights)
    for name in order:
        value = tensors[name]
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = value + value.dtype.type(0)  # -0, which masks make of negative weights, is 0: else a bit for each
        is_single = isinstance(value, np.ndarray) and value.dtype == np.float32
        if is_rounded and is_single and "grid" not in made.get(name, {}):
            value = _rounded(value, name in network.weights)  # type: ignore[arg-type]
        if made.get(name, {}).get("binary") == "both":
            given |= _counted(name, value)  # type: ignore[arg-type]
            changes.append({"change": "binary", "layer": name.rpartition(".")[0], "both": True})
        else:
            given[name] = value
    given |= {name: Same(owner) for name, owner in tied.items() if owner in given}
    return write(to, given, changes=changes)


def changes_beside(weights: Path) -> list[dict[str, Any]]:
    """The changes of the network's structure that keep-weights has noted; none where it noted nothing."""
    return list(_told(weights).get("changes", []))


def _made(weights: Path) -> dict[str, dict[str, Any]]:
    """What overrides have made of each tensor, as keep-weights has noted it."""
    return {one["name"]: one for one in _told(weights).get("tensors", [])}


def _told(weights: Path) -> dict[str, Any]:
    """What lies beside a file of weights."""
    try:
        told: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told


def _counted(name: str, weight: NDArray[Any]) -> dict[str, Given]:
    """The state of a binary layer (`wellfit.slim.layers.binary`) whose weight this is.

    Raises:
        WellfitError: it is no signs times scales.
    """
    sizes = np.abs(weight.reshape(len(weight), -1))
    scale = sizes.max(axis=1)
    if not (sizes == scale[:, None]).all() or not scale.all():
        raise WellfitError(
            f"{name} has weights that are no sign times a scale at the end of the run (zeros, or what the script has "
            'written there), which bits cannot hold: give it the method "binarise"'
        )
    bits = np.packbits(weight.reshape(sizes.shape) > 0, axis=1, bitorder="little")
    layer = name.rpartition(".")[0]
    return {f"{layer}.bits": bits, f"{layer}.scale": scale}


def _rounded(array: NDArray[np.float32], is_weight: bool) -> NDArray[np.float32]:
    """Values of shared weights as float16 has them, all others as bfloat16; what does not fit there is left."""
    sizes = np.abs(array[array != 0])
    if not np.isfinite(array).all() or not sizes.size:
        return array
    if is_weight and sizes.min() > _SMALLEST and sizes.max() < _LARGEST:
        return array.astype(np.float16).astype(np.float32)
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    return rounded if np.isfinite(rounded).all() else array


def described(path: Path, network: Network, plan: Plan) -> list[dict[str, Any]]:
    """Each tensor of a file, with what was planned and why others were left alone; for the table and the report."""
    from wellfit.slim.wfz import read as read_file

    layers = {layer.name: layer for layer in plan.layers}
    counted = {f"{layer.name.rpartition('.')[0]}.bits": layer for layer in plan.layers if layer.signs == "both"}
    found = []
    for stored in read_file(path).stored.values():
        count, shape, kept, values = prod(stored.shape), stored.shape, stored.kept, stored.distinct
        layer = layers.get(stored.name) or counted.get(stored.name)
        if stored.name in counted and layer is not None:  # its numbers are eight weights each
            count, shape, kept, values = layer.parameters, network.tensors[layer.name].shape, 1.0, 2
        found.append({
            "name": stored.name, "shape": list(shape), "parameters": count, "kept": kept,
            "values": values, "bits": 8 * stored.bytes / count if count else 0.0, "bytes": stored.bytes,
            "stored_as": stored.kind, "planned_keep": layer.keep if layer is not None else None,
            "method": str(layer.method) if layer is not None else None,
            "skipped": _why_left(stored, network, plan),
        })  # fmt: skip
    return found


def _why_left(stored: Stored, network: Network, plan: Plan) -> str | None:
    """Why nothing was done with a tensor; None if something was, or should have been."""
    if stored.tied_to is not None:
        return f"tied to {stored.tied_to}"
    if stored.name in plan.left:
        return plan.left[stored.name]
    if stored.name not in network.tensors:  # of a layer that counts signs
        return None if stored.name.endswith(".bits") else "scale"
    why = None if stored.name in network.weights else network.why_left(stored.name)
    return None if why == "bias" and plan.together else why
