"""One bit for each weight of a layer, and a scale for each of its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._convs import finite
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import layer_at, like
from wellfit.slim.changes.change import Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_ZEROS = 0.01
"""A sign is never 0: with a larger share of zeros the weights were pruned, and would all come back."""


@dataclass(frozen=True)
class Binary(Replacement):
    """A Linear or Conv2d becomes signs in single bits, and scales: the mean of |w| of each output, which is the best
    for given signs (Rastegari et al., XNOR-Net, 2016, equation 6). Lossless for weights that are signs times scales
    already, as a run under `binarise` leaves them; anything else needs such a run.

    Args:
        layer: as in `model.named_modules()`.
        both: one bit for the layer's input, too.
        scaled: with `both`, multiply by the mean of the input's absolute values, as XNOR-Net does. A run under
            `binarise=both` has no such scale: a norm takes its place.
    """

    name: ClassVar[str] = "binary"
    both: bool = False
    scaled: bool = False

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        from torch import nn

        old: Any = layer_at(model, self.layer, (nn.Linear, nn.Conv2d))
        if isinstance(old, nn.Conv2d):
            if self.both and old.groups != 1:
                raise Unfit(f"{self.layer}: it has {old.groups} groups: too few products under a filter for popcount")
            if old.padding == "same" and any(d * (k - 1) % 2 for d, k in zip(old.dilation, old.kernel_size)):
                raise Unfit(f"{self.layer}: it pads one side more than the other")
        return old

    def _made(self, old: Any) -> Any:
        from torch import nn

        from wellfit.slim.layers.binary import BinaryConv2d, BinaryLinear

        options = {"bias": old.bias is not None, "both": self.both, "scaled": self.scaled, **like(old)}
        if isinstance(old, nn.Linear):
            return BinaryLinear(old.in_features, old.out_features, **options)
        same: dict[str, Any] = {name: getattr(old, name) for name in ("stride", "dilation", "groups", "padding_mode")}
        padding: Any = old.padding
        if padding == "valid":
            padding = (0, 0)
        elif padding == "same":
            padding = tuple(d * (k - 1) // 2 for d, k in zip(old.dilation, old.kernel_size))
        sizes = {name: getattr(old, name) for name in ("in_channels", "out_channels", "kernel_size")}
        return BinaryConv2d(**sizes, padding=padding, **same, **options)

    def _fill(self, old: Any, new: Any) -> None:
        from wellfit.slim.native.shape import pack_bytes

        signs, scale, _ = binarised(old.weight)
        new.bits.copy_(pack_bytes(signs))
        new.scale.copy_(scale)
        if old.bias is not None:
            new.bias.copy_(old.bias)


def binarised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Signs and scales of a weight, and |W - scale * signs| / |W|.

    Args:
        weight: (outputs, ...), real.

    Returns:
        signs bool (outputs, inputs), True where w >= 0; scale (outputs,) in the weight's dtype; relative error.

    Raises:
        Unfit: the weights are not finite, or many are 0.
    """
    import torch

    wide = finite(weight).flatten(1)
    zeros = float((wide == 0).double().mean()) if wide.numel() else 0.0
    if zeros > MOST_ZEROS:
        raise Unfit(f"{zeros:.0%} of its weights are 0, which a sign cannot be: prune or binarise, not both")
    absolute = wide.abs()
    even = absolute.amin(1) == absolute.amax(1)  # signs times a scale already: no rounding of a mean
    scale = torch.where(even, absolute.amax(1), absolute.mean(1))
    signs = wide >= 0
    total = float(wide.square().sum())
    left = float((absolute - scale[:, None]).square().sum())
    return signs, scale.to(weight.dtype), (left / total) ** 0.5 if total else 0.0
