"""Parameters of an optimizer, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def parameters_in(optimizer: Optimizer) -> Iterator[Tensor]:
    """All parameters, group by group."""
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def with_gradient(optimizer: Optimizer) -> list[Any]:
    """The parameters that have a gradient."""
    return [parameter for parameter in parameters_in(optimizer) if parameter.grad is not None]


def parts_of_gradient(optimizer: Optimizer) -> list[Any]:
    """The numbers of the gradients, to be read and changed in place: of a sparse one those that it holds."""
    import torch

    parts: list[Any] = []
    for parameter in with_gradient(optimizer):
        if parameter.grad.layout is torch.sparse_coo:
            parameter.grad = parameter.grad.coalesce()  # the same element may stand in it several times
            parts.append(parameter.grad.values())
        else:
            parts.append(parameter.grad if parameter.grad.layout is torch.strided else parameter.grad.values())
    return parts


def is_weight(parameter: Tensor) -> bool:
    """Whether it is a matrix, a kernel or a table: not a bias, nor what a norm multiplies or adds."""
    return parameter.dim() >= 2
