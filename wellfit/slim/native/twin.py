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
        signs = weights.signs()
        sums = _ordered(x.new_zeros(x.shape[0], weights.rows, LANES), _sixteens(x), _sixteens(signs))
        return _with_bias(sums * weights.scale, weights)

    def both(self, x: torch.Tensor, weights: Weights, with_beta: bool) -> torch.Tensor:
        """See `BinaryKernel.both`."""
        dots = functional.linear(sign(x), weights.signs())  # whole numbers below 2**24: exact in any order
        if with_beta:
            dots = dots * mean_absolute(x)
        return _with_bias(dots * weights.scale, weights)

    def conv_both(
        self, x: torch.Tensor, shape: ConvShape, weights: Weights, missing: torch.Tensor, beta: torch.Tensor | None
    ) -> torch.Tensor:
        """See `BinaryKernel.conv_both`; zeros are padded behind the signs here, so `missing` is not needed."""
        kernel = weights.signs().reshape(weights.rows, *shape.kernel, shape.channels).permute(0, 3, 1, 2)
        dots = functional.conv2d(sign(x), kernel, None, shape.stride, shape.padding, shape.dilation)
        if beta is not None:
            dots = dots * beta.unsqueeze(1)
        scaled = dots * weights.scale.reshape(-1, 1, 1)
        return scaled if weights.bias is None else scaled + weights.bias.reshape(-1, 1, 1)


def sign(x: torch.Tensor) -> torch.Tensor:
    """+1.0 where x >= 0 (so for both zeros), else -1.0 (so for NaN)."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def mean_absolute(x: torch.Tensor) -> torch.Tensor:
    """Mean of |x| over the last dimension, summed in the kernel's order: (samples, 1)."""
    ones = torch.ones(1, x.shape[1], dtype=x.dtype, device=x.device)
    sums = _ordered(x.new_zeros(x.shape[0], 1, LANES), _sixteens(x.abs()), _sixteens(ones))
    return sums / x.shape[1]


def _sixteens(x: torch.Tensor) -> torch.Tensor:
    """The last dimension in rows of 16 numbers, with zeros behind it: (rows, ceil(n / 16), 16)."""
    return functional.pad(x, (0, -x.shape[1] % LANES)).reshape(x.shape[0], -1, LANES)


def _ordered(lanes: torch.Tensor, x: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """Sums of x times signs in the kernel's order: 16 lanes first, then those by halves; (samples, rows)."""
    for i in range(x.shape[1]):
        lanes = lanes + x[:, None, i] * signs[None, :, i]
    half = LANES // 2
    while half:
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
        half //= 2
    return lanes.squeeze(-1)


def _with_bias(y: torch.Tensor, weights: Weights) -> torch.Tensor:
    return y if weights.bias is None else y + weights.bias
