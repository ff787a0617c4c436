"""Which tensors the C kernel can read from memory as they are."""

from __future__ import annotations

import torch

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The dtypes of the kernel, by their number in kernel.c."""

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_STRIDED = torch.strided
_transformed = torch._C._functorch.is_functorch_wrapped_tensor
_functional = torch._is_functional_tensor


def supports(tensor: torch.Tensor) -> bool:
    """Whether the kernel may be given this tensor: a real CPU tensor that fills a piece of memory without gaps.

    A permuted tensor fills its memory as well, and order-free sums over it are right; `units` asks for more: a
    contiguous one.
    """
    # A subclass (FakeTensor, DTensor, ...) may hold no memory at all, and neither may a tensor inside torch.func.
    return (
        type(tensor) in _PLAIN
        and tensor.dtype in CODES
        and tensor.is_cpu
        and tensor.layout is _STRIDED
        and not tensor.is_neg()
        and not _transformed(tensor)
        and not _functional(tensor)
        and (tensor.is_contiguous() or dense(tensor))
        and (tensor.data_ptr() != 0 or tensor.numel() == 0)
    )


def dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill a piece of memory, each once, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True
