"""A group convolution whose outputs come in another order than its groups."""

from __future__ import annotations

import torch
from torch import nn


class ShuffledConv(nn.Module):
    """`conv(x)[:, order]`: output channel t is channel `order[t]` of a convolution with groups.

    Args:
        conv: a Conv1d or Conv2d.

    State: `order`, int64, (channels out,): a permutation. Until it is loaded or set, nothing is shuffled.
    """

    order: torch.Tensor

    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("order", torch.arange(conv.out_channels, device=conv.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (samples, channels, *places) or (channels, *places)."""
        y: torch.Tensor = self.conv(x)
        return y.index_select(x.ndim - len(self.conv.kernel_size) - 1, self.order)
