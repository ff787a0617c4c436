"""The one-bit products in torch: slow, on any device, and the same to the last bit as the C kernel's."""

from __future__ import annotations

import torch
from torch.nn import functional

from wellfit.slim.native.shape import ConvShape, Weights

LANES = 16


class BinaryTwin:
    """See the functions of `BinaryKernel`."""

    name = "twin"

    def weights_only(self, x: torch.Tensor, weights: Weights) -> torch.Tensor:
        """See `BinaryKernel.weights_only`."""
        sums = _looked_up(x, weights.signs())
        return sums * weights.scale[: weights.rows] + weights.bias[: weights.rows]

    def both(self, x: torch.Tensor, weights: Weights, with_beta: bool) -> torch.Tensor:
        """See `BinaryKernel.both`."""
        dots = functional.linear(sign(x), weights.signs())  # whole numbers below 2**24: exact in any order
        if with_beta:
            dots = dots * mean_absolute(x)
        return dots * weights.scale[: weights.rows] + weights.bias[: weights.rows]

    def conv_both(
        self, x: torch.Tensor, shape: ConvShape, weights: Weights, missing: torch.Tensor, beta: torch.Tensor | None
    ) -> torch.Tensor:
        """See `BinaryKernel.conv_both`; zeros are padded behind the signs here, so `missing` is not needed."""
        kernel = weights.signs().reshape(weights.rows, *shape.kernel, shape.channels).permute(0, 3, 1, 2)
        dots = functional.conv2d(sign(x), kernel, None, shape.stride, shape.padding, shape.dilation)
        if beta is not None:
            dots = dots * beta.unsqueeze(1)
        scale, bias = (values[: weights.rows].reshape(-1, 1, 1) for values in (weights.scale, weights.bias))
        return dots * scale + bias


def sign(x: torch.Tensor) -> torch.Tensor:
    """+1.0 where x >= 0 (so for both zeros), else -1.0 (so for NaN)."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def mean_absolute(x: torch.Tensor) -> torch.Tensor:
    """Mean of |x| over the last dimension, summed in the kernel's order: (samples, 1)."""
    padded = functional.pad(x.abs(), (0, -x.shape[1] % LANES))
    lanes = x.new_zeros(x.shape[0], LANES)
    for start in range(0, padded.shape[1], LANES):
        lanes = lanes + padded[:, start : start + LANES]
    half = LANES // 2
    while half:
        lanes = lanes[:, :half] + lanes[:, half : 2 * half]
        half //= 2
    return lanes / x.shape[1]


def _looked_up(x: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Sums of x times signs in the kernel's order: four neighbours, then every fourth of these; (samples, rows)."""
    behind = (0, -x.shape[1] % LANES)
    x, signs = functional.pad(x, behind), functional.pad(signs, behind, value=1.0)
    sums = x.new_zeros(x.shape[0], signs.shape[0], 4)
    for start in range(0, x.shape[1], LANES):
        part = x[:, None, start : start + LANES] * signs[None, :, start : start + LANES]
        fours = part.reshape(*part.shape[:2], 4, 4)
        sums = sums + ((fours[..., 0] + fours[..., 1]) + (fours[..., 2] + fours[..., 3]))
    return (sums[..., 0] + sums[..., 1]) + (sums[..., 2] + sums[..., 3])
