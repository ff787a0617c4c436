"""A 1x1 bottleneck before a convolution: it sees fewer channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._convs import check_smaller, conv_at, fill, finite, geometry, pointwise
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, like
from wellfit.slim.changes.svd import factored

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Reduced(Replacement):
    """A Conv1d or Conv2d (T outputs, S inputs, kernel of k places) becomes two:

        1x1: S -> channels;  kernel of k places: channels -> T with the bias

    with `channels (S + k T)` weights for `k S T`. It starts as the best approximation of the trained one of this form
    (the leading singular vectors of its unfolding over inputs), and needs distillation afterwards.

    Args:
        layer: as in `model.named_modules()`.
        channels: between the two; refused where both together are not smaller.

    Source: the 1x1 reductions of Szegedy et al., Going Deeper with Convolutions, 2014, section 4.
    """

    name: ClassVar[str] = "reduced"
    needs: ClassVar[str] = "distillation from the model as it was"
    channels: int

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        old = conv_at(model, self.layer)
        check_count(self.layer, "channels", self.channels, old.in_channels)
        check_smaller(self.layer, old, reduced_parameters(old.weight.shape, self.channels))
        return old

    def _made(self, old: Any) -> Any:
        from torch import nn

        main = type(old)(self.channels, old.out_channels, bias=old.bias is not None, **geometry(old), **like(old))
        return nn.Sequential(pointwise(old, old.in_channels, self.channels), main)

    def _fill(self, old: Any, new: Any) -> None:
        reduce, kernel, _ = reduction(old.weight, self.channels)
        fill(new, [reduce, kernel], old.bias)


def reduced_parameters(shape: tuple[int, ...], channels: int) -> int:
    """Weights of both convolutions that stand for one of this shape (outputs, inputs, *kernel)."""
    return channels * (shape[1] + prod(shape[2:]) * shape[0])


def reduction(weight: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The best 1x1 reduction, the kernel behind it, and |K - K'| / |K|.

    Args:
        weight: (outputs, inputs, *kernel), real.
        channels: 1 .. inputs.

    Returns:
        reduction (channels, inputs), kernel (outputs, channels, *kernel), relative error.

    Raises:
        Unfit: the weights are not finite.
    """
    wide = finite(weight)
    unfolded = wide.flatten(2).transpose(1, 2).flatten(0, 1)  # (outputs * places, inputs)
    rank = min(channels, *unfolded.shape)
    a, b, error = factored(unfolded, rank)
    reduce, kernel = wide.new_zeros(channels, wide.shape[1]), wide.new_zeros(unfolded.shape[0], channels)
    reduce[:rank], kernel[:, :rank] = a, b
    shaped = kernel.reshape(wide.shape[0], -1, channels).transpose(1, 2)
    return reduce.to(weight.dtype), shaped.reshape(wide.shape[0], channels, *wide.shape[2:]).to(weight.dtype), error
