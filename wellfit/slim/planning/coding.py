"""How many bytes the tensors of a model take in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from wellfit.slim.wfz.kinds import pack
from wellfit.slim.wfz.numbers import DTYPE_NAMED, patterns_of

_FEW = 4096  # distinct values, up to which a table of them is worth its bytes
_SAMPLE = 1 << 16  # numbers that are coded in place of all
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


def coded(tensors: Mapping[str, torch.Tensor], *, small: bool) -> dict[str, int]:
    """Bytes of each tensor in a file, coded."""
    found = {}
    for name, tensor in tensors.items():
        patterns = _patterns(tensor)
        size = len(pack(patterns[0], patterns[1], small=small)[1]) if patterns else _plain(tensor)
        found[name] = size + _AROUND + len(name)
    return found


def _estimate(tensor: torch.Tensor) -> float:
    if not tensor.numel():
        return 0.0
    if tensor.layout is not torch.strided or tensor.is_complex() or not tensor.dtype.is_floating_point:
        return _by_sample(tensor)
    flat = tensor.flatten()
    if len(flat) > _SAMPLE and len(flat[:: len(flat) // 4096].unique()) > 2048:
        return _by_sample(tensor)
    counts = flat.unique(return_counts=True)[1].double()
    if len(counts) > min(_FEW, len(flat) // 4):
        return _by_sample(tensor)
    bits = float(-(counts * (counts / counts.sum()).log2()).sum())
    return bits / 8 + 2 * len(counts)


def _by_sample(tensor: torch.Tensor) -> float:
    patterns = _patterns(tensor)
    if patterns is None:
        return _plain(tensor)
    whole, dtype = patterns
    rows = whole.reshape(whole.shape[0] if whole.ndim else 1, -1)
    step = max(1, whole.size // _SAMPLE)
    part = np.ascontiguousarray(rows[::step] if len(rows) >= step else rows.reshape(-1)[: whole.size // step])
    return len(pack(part, dtype, small=False)[1]) * whole.size / part.size


def _plain(tensor: torch.Tensor) -> int:
    from wellfit.slim.measure.size import bytes_of

    return bytes_of(tensor)


def _patterns(tensor: torch.Tensor) -> tuple[Any, Any] | None:
    """The bits of a tensor; None for one that a file cannot hold."""
    dtype = DTYPE_NAMED.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None or tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        return None
    plain = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    if dtype.storage != np.dtype(dtype.storage).str or dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        plain = plain.view(torch.uint8 if dtype.width == 1 else torch.uint16)
    return np.ascontiguousarray(patterns_of(np.ascontiguousarray(plain.numpy()), dtype)), dtype
