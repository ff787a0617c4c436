"""What takes the place of a layer that was dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Through(nn.Module):
    """Hands on its first argument: the layer that was here is left out of a chain."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The first argument as it is, any shape."""
        return x


class Nothing(nn.Module):
    """Adds nothing: the layer that was here was a branch beside a shortcut, `x + layer(x)`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Zeros of the shape of the first argument."""
        return torch.zeros_like(x)
