"""How many bytes the tensors of a model take in a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Change, as_json
from wellfit.slim.files import as_given, save
from wellfit.slim.measure.size import bytes_of
from wellfit.slim.wfz.kinds import pack
from wellfit.slim.wfz.numbers import patterns_of, taken

_FEW = 4096  # distinct values, up to which a table of them is worth its bytes
_SAMPLE = 1 << 18  # numbers that are looked at in place of all
_LARGE = 1 << 21  # numbers, from which on the best coder is not tried on each whole model
_AROUND = 12  # bytes of a tensor in the header, besides its name


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a file of the model holds, shared tensors under their first name."""
    seen: set[int] = set()
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def estimated(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors in a file, about."""
    return int(sum(_estimate(tensor) for tensor in tensors))


def file_bytes(model: nn.Module, changes: Sequence[Change]) -> int:
    """Bytes of a file of the model; of a large model about, and rather too many."""
    tensors = tensors_of(model)
    if sum(tensor.numel() for tensor in tensors.values()) <= _LARGE:
        try:
            with tempfile.TemporaryDirectory() as folder:
                return save(model, Path(folder) / "model.wfz", changes).bytes
        except WellfitError:  # a tensor that no file can hold
            pass
    return sum(coded(tensors, small=False).values()) + len(json.dumps(as_json(one.stored() for one in changes)))


def coded(tensors: Mapping[str, torch.Tensor], *, small: bool) -> dict[str, int]:
    """Bytes of each tensor in a file, coded."""
    found = {}
    for name, tensor in tensors.items():
        patterns = _patterns(tensor)
        size = len(pack(*patterns, small=small)[1]) if patterns else bytes_of(tensor)
        found[name] = size + _AROUND + len(name)
    return found


def _estimate(tensor: torch.Tensor) -> float:
    """The order-0 entropy: of the values if they are few, else of which are 0 and of each byte of the others."""
    found = _patterns(tensor)
    if found is None:
        return bytes_of(tensor)
    flat: NDArray[Any] = found[0].reshape(-1)
    width: int = found[1].width
    part = flat[:: max(1, flat.size // _SAMPLE)]
    if not part.size:
        return 0.0
    values, counts = np.unique(part, return_counts=True)
    if len(values) <= min(_FEW, part.size // 4):
        return _entropy(counts) / 8 * (flat.size / part.size) + width * len(values)
    others = np.ascontiguousarray(part[part != 0])
    planes = others.view(np.uint8).reshape(len(others), -1).T
    bits: float = _entropy(np.array([len(others), part.size - len(others)]))
    bits += sum(_entropy(np.bincount(p)) for p in planes)
    return min(bits / 8 / part.size, width) * flat.size


def _entropy(counts: NDArray[Any]) -> float:
    """Bits of as many symbols, in all."""
    some = counts[counts > 0]
    return float(-(some * np.log2(some / some.sum())).sum())


def _patterns(tensor: torch.Tensor) -> tuple[Any, Any] | None:
    """The bits of a tensor, and its type; None for one that a file cannot hold."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return None
    try:
        array, dtype = taken("it", as_given(tensor))
    except WellfitError:
        return None
    return patterns_of(array, dtype), dtype
