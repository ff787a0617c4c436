"""How much each channel of a group matters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.slim.changes import Unfit
from wellfit.slim.changes._tree import tensor_of
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import copied, copy_of, outputs
from wellfit.slim.methods.coupled.groups import Group, Indices
from wellfit.slim.methods.layers import moved
from wellfit.slim.methods.masked import gone_of, zero

Scores = NDArray[np.float64]
"""One number a channel; the lowest one is missed least."""


def importance(model: nn.Module, inputs: Inputs, group: Group, by: str) -> Scores:
    """The scores of a group's channels by the measure of this name.

    Raises:
        WellfitError: there is no such measure.
        Unfit: it does not fit the group.
    """
    if by == "output":
        return by_output(model, inputs, group)
    measures = {"magnitude": magnitude, "scale": scale, "taylor": taylor}
    if by not in measures:
        raise WellfitError(f'there is no importance "{by}"{did_you_mean(by, [*measures, "output"])}')
    return measures[by](model, group)


def magnitude(model: nn.Module, group: Group) -> Scores:
    """The L2 norm of all weights that belong to a channel: those that make it and those that use it (Li et al. 2017
    take the former alone; Fang et al. 2023 the whole group). Statistics of norms do not count."""
    return np.sqrt(_summed(model, group, lambda tensor: tensor.detach().double().square()))


def taylor(model: nn.Module, group: Group) -> Scores:
    """|sum of gradient x weight| over all weights of a channel: by how much the loss would change, to first order
    (Molchanov et al. 2019, equation 8, where it is squared; the order is the same).

    Raises:
        Unfit: no gradients are there, as after `backward`.
    """

    def product(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.grad is None:
            raise Unfit(f"{group.name}: there are no gradients; call backward on a loss first")
        return (tensor.grad * tensor.detach()).double()

    return np.abs(_summed(model, group, product))


def scale(model: nn.Module, group: Group) -> Scores:
    """The mean of |gamma| of the batch norms that a channel goes through (Liu et al. 2017).

    Raises:
        Unfit: it goes through none that has one.
    """
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
    }
    found = [
        tensor_of(model, place.tensor).detach().abs().double().cpu().numpy()[members].mean(axis=1)
        for place, members in zip(group.places, group.members)
        if place.tensor in norms
    ]
    if not found:
        raise Unfit(f"{group.name}: no batch norm with a scale goes over its channels")
    return np.mean(found, axis=0)  # type: ignore[no-any-return]


def by_output(model: nn.Module, inputs: Inputs, group: Group) -> Scores:
    """How far the outputs move when a channel alone is zeroed: one forward pass of a copy for each, so for groups of
    few channels, as heads are (Michel et al. 2019 take the loss). The unit is that of `layers.Dropped.moved`."""
    base, given = copied(model), inputs.to("cpu")
    expected = outputs(base, given, "the model")
    scores = []
    for channel in range(group.channels):
        masked = copy_of(base)
        zero(masked, gone_of({group: np.delete(np.arange(group.channels), channel)}))
        scores.append(moved(expected, outputs(masked, given, "the masked model")))
    return np.array(scores)


def _summed(model: nn.Module, group: Group, value: Callable[[torch.Tensor], torch.Tensor]) -> Scores:
    """The sum over all parameters of a channel of some value of theirs; a weight that has the channel along two axes
    counts for both."""
    total = np.zeros(group.channels)
    for place, members in zip(group.places, group.members):
        tensor = tensor_of(model, place.tensor)
        if isinstance(tensor, nn.Parameter):
            total += _by_channel(value(tensor), place.axis, members)
    return total


def _by_channel(values: torch.Tensor, axis: int, members: Indices) -> Scores:
    rest = [other for other in range(values.dim()) if other != axis]
    along = values.sum(dim=rest) if rest else values
    summed: Scores = along.cpu().numpy()[members].sum(axis=1)
    return summed
