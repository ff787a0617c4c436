"""What a weight is worth, and what it costs: saliency from gradients, bits from how full its row and column are."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from wellfit.overrides.slim._weights import Weight

_MEMORY = 0.999  # how much of the mean of squared gradients is kept in a step
_FLOOR = 0.1  # of a tensor's typical gradient: what a weight is worth whose own gradient was 0 so far
_VALUE = 3.0  # bits of a kept weight's value, where about eight are shared
_BELIEF = 2.0  # weights that a row or column is taken to have beside its own, as full as the tensor is
_BELIEF_IN_KERNEL = 4.0  # the same of the weights in a kernel, as full as its row and column say


class Squares:
    """Running means of the squares of gradients, weight by weight, whatever optimizer there is.

    Both means are as Adam has its second moment, so that the first gradients count in full.
    """

    def __init__(self) -> None:
        self._sums: weakref.WeakKeyDictionary[Weight, torch.Tensor] = weakref.WeakKeyDictionary()
        self._seen: weakref.WeakKeyDictionary[Weight, int] = weakref.WeakKeyDictionary()

    def see(self, weight: Weight) -> None:
        """A weight's gradient is there."""
        gradient = weight.gradient
        if gradient is None:
            return
        square = gradient.float().square()
        known = self._sums.get(weight)
        if known is None or known.device != square.device:
            known = torch.zeros_like(square)
            self._seen[weight] = 0
        self._sums[weight] = known.lerp_(square, 1 - _MEMORY)
        self._seen[weight] += 1

    def of(self, weight: Weight) -> torch.Tensor | None:
        """The mean of a weight's squared gradients, of its shape, in float32; None before the first."""
        known = self._sums.get(weight)
        return None if known is None else known / (1 - _MEMORY ** self._seen[weight])


def curvature(square: torch.Tensor) -> torch.Tensor:
    """How much the loss minds it if a weight moves: the root of the mean square of its gradient.

    The mean square itself is the diagonal of the empirical Fisher information, which stands for the second derivative
    of Optimal Brain Damage (LeCun, Denker, Solla, 1990); its root, by which Adam divides, ranks weights of different
    tensors better. A tenth of the tensor's own is added, for weights that had no gradient so far.

    Args:
        square: means of squared gradients.

    Returns:
        a tensor of its shape, not negative.
    """
    return square.sqrt() + _FLOOR * square.mean().sqrt()


def worth(value: torch.Tensor, square: torch.Tensor | None) -> torch.Tensor:
    """What the loss would lose with each weight: its square times its curvature.

    Args:
        value: the weights.
        square: means of their squared gradients; None: all weights are alike.

    Returns:
        a tensor of their shape; not negative.
    """
    return value.square() if square is None else value.square() * curvature(square)


def bits(mask: torch.Tensor, belief: float = 1.0) -> torch.Tensor:
    """What it costs in a file to keep each weight instead of a 0, as full as its row, column and kernel are.

    A coder that knows the rows and columns of what it codes (see `wellfit.slim.wfz.coders.mixing`) gives a kept weight
    fewer bits where its neighbours are kept too. With d the share that is kept of a tensor, r of a row and c of a
    column, the chance is taken to have the log odds logit(r) + logit(c) - logit(d), and no more than 1/2, else full
    rows would keep themselves. Weights in a kernel are asked how full that is.

    Args:
        mask: which weights are kept now. Axis 0 and 1 are rows and columns, what follows is a kernel.
        belief: 1; or less, down to 0, where all weights cost the same.

    Returns:
        a tensor of its shape, in float32; above 0.
    """
    kept = mask.float()
    all_kept = (kept.sum() + 1) / (kept.numel() + 2)
    odds = torch.logit(all_kept)
    if mask.dim() >= 2:
        places = kept.flatten(2).sum(2) if mask.dim() > 2 else kept
        size = kept[0, 0].numel()
        rows = _share(places.sum(1, keepdim=True), size * places.shape[1], all_kept, _BELIEF)
        columns = _share(places.sum(0, keepdim=True), size * places.shape[0], all_kept, _BELIEF)
        own = torch.logit(rows) + torch.logit(columns) - odds
        if mask.dim() > 2:
            own = torch.logit(_share(places, size, torch.sigmoid(own), _BELIEF_IN_KERNEL).clamp(1e-5, 1 - 1e-5))
        own = odds + belief * (own - odds)
        odds = own.reshape(*own.shape, *[1] * (mask.dim() - 2))
    return (_VALUE - odds.clamp(max=0.0) / math.log(2)).expand_as(kept)


def _share(kept: torch.Tensor, size: int, expected: torch.Tensor, belief: float) -> torch.Tensor:
    """The share that is kept, drawn to what is expected where there are few to judge by."""
    return (kept + belief * expected) / (size + belief)
