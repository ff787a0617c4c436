"""A norm for values whose channels are on the last axis."""

from __future__ import annotations

import torch
from torch import nn

from wellfit.overrides.layers.hooks import Normalise


class ChannelsLast(nn.Module):
    """A batch, instance or group norm in the place of a LayerNorm.

    Args:
        norm: takes channels on axis 1.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self._apply_norm = Normalise("norm", True)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Values of shape (batch, ..., channels), normalised."""
        return self._apply_norm(self, (), input)
