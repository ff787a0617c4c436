"""A few values for all weights of a tensor: k-means, without training afterwards."""

from __future__ import annotations

import torch

from wellfit.overrides.slim._clusters import clusters


def shared(weight: torch.Tensor, count: int, price: float = 0.0) -> torch.Tensor:
    """A weight whose numbers, but for zeros, have at most `count` distinct values.

    Args:
        weight: real and finite, any shape. Zeros stay zeros: pruned weights stay pruned.
        count: values besides 0.
        price: of a bit in the file, in units of the variance: above 0, rare values are given up for frequent ones
            (entropy-constrained k-means); see `wellfit.overrides.slim._clusters`.

    Returns:
        A new tensor of the same shape and type.

    Source: Han, Mao, Dally, Deep Compression, 2016; Choi, El-Khamy, Lee, 2017.
    """
    alive = weight != 0
    values = weight[alive]
    if not values.numel():
        return weight.clone()
    centres, numbers = clusters(values, count, price=price)
    result = torch.zeros_like(weight)
    result[alive] = centres.to(weight.dtype)[numbers]
    return result
