"""Weights that keep-weights has written, as a `.wfz` file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.drive.layers import Network
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

    Raises:
        WellfitError: a file cannot be read or written.
    """
    tensors, metadata = read(weights)
    tied = dict(json.loads(metadata.get("wellfit", "{}")).get("tied", []))
    order = [name for name in network.tensors if name in tensors] + [
        name for name in tensors if name not in network.tensors
    ]
    given: dict[str, Given | Same] = {}
    for name in order:
        value = tensors[name]
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = value + value.dtype.type(0)  # -0, which masks make of negative weights, is 0: else a bit for each
        is_single = isinstance(value, np.ndarray) and value.dtype == np.float32
        given[name] = _rounded(value, name in network.weights) if is_rounded and is_single else value  # type: ignore[arg-type]
    given |= {name: Same(owner) for name, owner in tied.items() if owner in given}
    return write(to, given, changes=changes_beside(weights))


def changes_beside(weights: Path) -> list[dict[str, Any]]:
    """The changes of the network's structure that keep-weights has noted; none where it noted nothing."""
    try:
        told = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return list(told.get("changes", []))


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


def _why_left(stored: Stored, network: Network, with_biases: bool) -> str | None:
    """Why a tensor was neither pruned nor shared; None if it was, or should have been."""
    if stored.tied_to is not None:
        return f"tied to {stored.tied_to}"
    why = None if stored.name in network.weights else network.why_left(stored.name)
    return None if why == "bias" and with_biases else why


def described(path: Path, network: Network, plan_of: Mapping[str, Any], with_biases: bool) -> list[dict[str, Any]]:
    """Each tensor of a file, with what was planned and why others were left alone; for the table and the report."""
    from wellfit.slim.wfz import read as read_file

    found = []
    for stored in read_file(path).stored.values():
        count = int(np.prod(stored.shape, dtype=np.int64))
        found.append({
            "name": stored.name, "shape": list(stored.shape), "parameters": count, "kept": stored.kept,
            "values": stored.distinct, "bits": 8 * stored.bytes / count if count else 0.0, "bytes": stored.bytes,
            "stored_as": stored.kind, "planned_keep": plan_of.get(stored.name),
            "skipped": _why_left(stored, network, with_biases),
        })  # fmt: skip
    return found
