"""Layers that train for 8 bits: they compute with the rounded weights and activations that an int8 layer will have.

Rounding has no slope; gradients pass as if it were not there (the straight-through estimator of Bengio et al., 2013).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class RoundedLinear(nn.Linear):
    """`linear(round(x), round(w), b)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., inputs)."""
        return functional.linear(rounded_activations(x), rounded_weight(self.weight), self.bias)


class RoundedConv2d(nn.Conv2d):
    """The same for a convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (samples, channels, height, width) or (channels, height, width)."""
        y: torch.Tensor = self._conv_forward(rounded_activations(x), rounded_weight(self.weight), self.bias)
        return y


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """To the nearest of 255 levels, whose distance is max|w| / 127 for each output."""
    with torch.no_grad():
        scale = (weight.abs().flatten(1).amax(1) / 127).clamp(min=1e-30).reshape(-1, *[1] * (weight.ndim - 1))
        change = (weight / scale).round() * scale - weight
    return weight + change


def rounded_activations(x: torch.Tensor) -> torch.Tensor:
    """To the nearest of 256 levels over the range of the batch, in which 0 is one."""
    if not x.numel():
        return x
    with torch.no_grad():
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = ((high - low) / 255).clamp(min=1e-30)
        zero = (-low / scale).round()
        change = (((x / scale).round() + zero).clamp(0, 255) - zero) * scale - x
    return x + change
