"""The smallest weights set to 0, without training afterwards."""

from __future__ import annotations

import torch

from wellfit.overrides.slim._masks import best


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """A weight without its smallest magnitudes (Han et al., 2015).

    A tenth of the zeros costs next to nothing, nine tenths without fine-tuning most of what was learned; for that there
    is `wellfit slim train.py`.

    Args:
        weight: real or complex, any shape.
        share: of the numbers that become 0; in 0..1. A few always stay.

    Returns:
        A new tensor of the same shape and type.
    """
    keep = weight.numel() - int(share * weight.numel())
    (mask,) = best([weight.abs()], keep)
    return torch.where(mask, weight, torch.zeros_like(weight))
