"""How many bytes the tensors of a model take in a file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Change, as_json
from wellfit.slim.files import as_given, save
from wellfit.slim.measure.size import bytes_of
from wellfit.slim.wfz.kinds import pack
from wellfit.slim.wfz.numbers import patterns_of, taken

_FEW = 4096  # distinct values, up to which a table of them is worth its bytes
_SAMPLE = 1 << 16  # numbers that are coded in place of all
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
    """Bytes of tensors in a file, about: the order-0 entropy of few values, else a part of the numbers coded."""
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
    if not tensor.numel():
        return 0.0
    if tensor.layout is not torch.strided or tensor.is_complex() or not tensor.dtype.is_floating_point:
        return _by_sample(tensor)
    flat = tensor.flatten()
    if len(flat) > _SAMPLE and len(torch.unique(flat[:: len(flat) // 4096])) > 2048:
        return _by_sample(tensor)
    counts = torch.unique(flat, return_counts=True)[1].double()
    if len(counts) > min(_FEW, len(flat) // 4):
        return _by_sample(tensor)
    bits = float(-(counts * (counts / counts.sum()).log2()).sum())
    return bits / 8 + 2 * len(counts)


def _by_sample(tensor: torch.Tensor) -> float:
    patterns = _patterns(tensor)
    if patterns is None:
        return bytes_of(tensor)
    whole, dtype = patterns
    rows = whole.reshape(whole.shape[0] if whole.ndim else 1, -1)
    step = max(1, whole.size // _SAMPLE)
    part = np.ascontiguousarray(rows[::step] if len(rows) >= step else rows.reshape(-1)[: whole.size // step])
    size: float = len(pack(part, dtype, small=False)[1]) * whole.size / part.size
    return size


def _patterns(tensor: torch.Tensor) -> tuple[Any, Any] | None:
    """The bits of a tensor, and its type; None for one that a file cannot hold."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return None
    try:
        array, dtype = taken("it", as_given(tensor))
    except WellfitError:
        return None
    return patterns_of(array, dtype), dtype
