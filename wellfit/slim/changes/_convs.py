"""What changes of convolutions have in common."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from wellfit.slim.changes._swap import layer_at, like
from wellfit.slim.changes.change import Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn


def conv_at(model: nn.Module, path: str, pointwise_fits: bool = False) -> Any:
    """The ungrouped Conv1d or Conv2d with this name.

    Args:
        pointwise_fits: accept a kernel of one place as well.

    Raises:
        Unfit: it is something else, it has groups, or its kernel has one place only.
    """
    from torch import nn

    conv: Any = layer_at(model, path, (nn.Conv1d, nn.Conv2d))
    if conv.groups == conv.in_channels and conv.groups > 1:
        raise Unfit(f"{path}: it is depthwise, and small already")
    if conv.groups != 1:
        raise Unfit(f"{path}: it has {conv.groups} groups, each of them small already")
    if prod(conv.kernel_size) == 1 and not pointwise_fits:
        raise Unfit(f"{path}: its kernel has one place only; use svd")
    return conv


def geometry(conv: Any) -> dict[str, Any]:
    """Stride, padding and dilation, as arguments of a convolution that does the same to places."""
    return {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}


def along(conv: Any, axis: int) -> dict[str, Any]:
    """The part of the geometry that acts along one axis; along the others nothing moves."""
    axes = len(conv.kernel_size)

    def only(values: tuple[int, ...], rest: int) -> tuple[int, ...]:
        return tuple(values[i] if i == axis else rest for i in range(axes))

    return {
        "kernel_size": only(conv.kernel_size, 1),
        "stride": only(conv.stride, 1),
        "padding": conv.padding if isinstance(conv.padding, str) else only(conv.padding, 0),
        "dilation": only(conv.dilation, 1),
        "padding_mode": conv.padding_mode,
    }


def pointwise(conv: Any, inputs: int, outputs: int, bias: bool = False) -> Any:
    """A convolution of the same kind with a kernel of one place."""
    return type(conv)(inputs, outputs, 1, bias=bias, **like(conv))


def check_smaller(path: str, conv: Any, parameters: int) -> None:
    """Refuse what would have as many weights as the convolution or more.

    Raises:
        Unfit: it would.
    """
    if parameters >= conv.weight.numel():
        raise Unfit(f"{path}: {parameters} weights would take the place of {conv.weight.numel()}: nothing is gained")


def finite(weight: torch.Tensor) -> torch.Tensor:
    """The weight in float64, for decompositions.

    Raises:
        Unfit: it is not finite.
    """
    import torch

    wide = weight.detach().double()
    if not bool(torch.isfinite(wide).all()):
        raise Unfit("the weights are not finite: train it anew")
    return wide


def fill(modules: Any, weights: list[torch.Tensor], bias: torch.Tensor | None) -> None:
    """Give the layers of a chain their weights, and the bias to the last."""
    for module, weight in zip(modules, weights, strict=True):
        module.weight.copy_(weight.reshape(module.weight.shape))
    if bias is not None:
        modules[-1].bias.copy_(bias)
