"""Weights rounded to a shorter float: the type of the tensor stays, its last bits are 0, free in the file."""

from __future__ import annotations

import torch

from wellfit.slim.changes import Unfit

KINDS = ("bf16", "fp16")


def rounded(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """A tensor with the values that bfloat16 or float16 can hold, in its own type.

    Args:
        tensor: real, any shape.
        kind: "bf16" (8 bits of exponent, 7 of mantissa) or "fp16" (5 and 10).

    Raises:
        Unfit: float16 cannot hold its largest number.
    """
    short = tensor.to(torch.bfloat16 if kind == "bf16" else torch.float16)
    if bool((short.isinf() & tensor.isfinite()).any()):
        raise Unfit(f"its largest number does not fit into {kind}")
    return short.to(tensor.dtype)
