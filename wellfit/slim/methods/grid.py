"""Weights on an even grid for each filter: whole numbers times a scale."""

from __future__ import annotations

import torch

MOST_BITS = 12


def on_grid(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """`q s` with whole numbers |q| < 2^(bits - 1) and `s = max|w| / (2^(bits - 1) - 1)` for each first index.

    With 8 bits these are the weights of int8 (Jacob et al., 2018); they are computed with as before, in their own type,
    and only the file is smaller.

    Args:
        weight: real and finite, (outputs, ...).
        bits: 2 .. 12.

    Returns:
        A new tensor of the same shape and type.
    """
    most = 2 ** (bits - 1) - 1
    wide = weight.double()
    scale = (wide.abs().flatten(1).amax(1) / most).clamp(min=1e-30).float()
    shaped = scale.reshape(-1, *[1] * (weight.dim() - 1))
    # float32 times float32, as the reader of a file multiplies them: so the file holds whole numbers and scales.
    result: torch.Tensor = ((wide / shaped.double()).round().clamp(-most, most).float() * shaped).to(weight.dtype)
    return result
