"""A depthwise separable convolution in place of a convolution: each channel by itself, then 1x1 over the channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._convs import check_smaller, conv_at, fill, finite, geometry, pointwise
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, like

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Separable(Replacement):
    """A Conv1d or Conv2d (T outputs, S inputs, kernel of k places) becomes two:

        depthwise, kernel of k places: S -> S multiplier, each from its own channel;  1x1: S multiplier -> T, with bias

    with `S multiplier (k + T)` weights for `k S T`: a share of `1/T + 1/k` at multiplier 1. It starts as the best
    approximation of the trained one of this form, and needs distillation afterwards.

    Args:
        layer: as in `model.named_modules()`.
        multiplier: depthwise filters for each input channel.

    Source: Howard et al., MobileNets, 2017, section 3.1; the start: Guo et al., Network Decoupling, 2018.
    """

    name: ClassVar[str] = "separable"
    needs: ClassVar[str] = "distillation from the model as it was"
    multiplier: int = 1

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        old = conv_at(model, self.layer)
        most = min(prod(old.kernel_size), old.out_channels)
        check_count(self.layer, "multiplier", self.multiplier, most)
        check_smaller(self.layer, old, separable_parameters(old.weight.shape, self.multiplier))
        return old

    def _made(self, old: Any) -> Any:
        from torch import nn

        wide = old.in_channels * self.multiplier
        places = geometry(old)
        depthwise = type(old)(old.in_channels, wide, groups=old.in_channels, bias=False, **places, **like(old))
        last = pointwise(old, wide, old.out_channels, bias=old.bias is not None)
        return nn.Sequential(depthwise, last)

    def _fill(self, old: Any, new: Any) -> None:
        depthwise, over_channels, _ = separated(old.weight, self.multiplier)
        fill(new, [depthwise, over_channels], old.bias)


def separable_parameters(shape: tuple[int, ...], multiplier: int) -> int:
    """Weights of both convolutions that stand for one of this shape (outputs, inputs, *kernel)."""
    return shape[1] * multiplier * (prod(shape[2:]) + shape[0])


def separated(weight: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The best depthwise and 1x1 filters, and |K - K'| / |K|.

    Input channels do not meet before the 1x1 convolution. So for each of them the filters K[:, s] are a matrix
    (outputs, places), and its truncated singular value decomposition is the best choice for this channel.

    Args:
        weight: (outputs, inputs, *kernel), real.
        multiplier: 1 .. min(outputs, places).

    Returns:
        depthwise (inputs * multiplier, places), 1x1 (outputs, inputs * multiplier), relative error.

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    each = finite(weight).flatten(2).transpose(0, 1)  # (inputs, outputs, places)
    u, s, v = torch.linalg.svd(each, full_matrices=False)
    root = s[:, :multiplier].sqrt()
    depthwise = (root.unsqueeze(-1) * v[:, :multiplier]).flatten(0, 1)
    over_channels = (u[..., :multiplier] * root.unsqueeze(1)).permute(1, 0, 2).flatten(1)
    total = float(s.square().sum())
    error = (float(s[:, multiplier:].square().sum()) / total) ** 0.5 if total else 0.0
    return depthwise.to(weight.dtype), over_channels.to(weight.dtype), error
