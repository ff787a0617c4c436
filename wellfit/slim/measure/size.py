"""How many bytes the tensors of a model take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Size:
    """Bytes of a model's state_dict, each tensor counted once however many names it has.

    Args:
        parameters: how many numbers the parameters hold.
        bytes: of parameters and buffers together, as they lie in memory.
        buffers: of the bytes, those of buffers.
    """

    parameters: int
    bytes: int
    buffers: int


def size(model: nn.Module) -> Size:
    """Parameters and bytes of the state_dict; what it leaves out (non-persistent buffers) is left out here too."""
    seen: set[int] = set()
    parameters = total = buffers = 0
    for tensor in model.state_dict(keep_vars=True).values():
        if not isinstance(tensor, torch.Tensor) or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        count = bytes_of(tensor)
        total += count
        if isinstance(tensor, nn.Parameter):
            parameters += tensor.numel()
        else:
            buffers += count
    return Size(parameters, total, buffers)


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's numbers; of a sparse one, those of its indices and values."""
    if tensor.layout == torch.strided:
        return tensor.numel() * tensor.element_size()
    if tensor.layout == torch.sparse_coo:
        parts = [tensor.detach()._indices(), tensor.detach()._values()]
    else:
        along_rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
        pointers, plain = ("crow_indices", "col_indices") if along_rows else ("ccol_indices", "row_indices")
        parts = [getattr(tensor, pointers)(), getattr(tensor, plain)(), tensor.values()]
    return sum(part.numel() * part.element_size() for part in parts)
