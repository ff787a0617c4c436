"""Whole layers and blocks that a model can do without, by how far its outputs move when one is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from wellfit.slim.changes import Unfit
from wellfit.slim.changes.drop import Drop
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import copied, copy_of, outputs, said
from wellfit.slim.methods.passes import once, passes


@dataclass(frozen=True)
class Dropped:
    """A layer left out.

    Args:
        change: leaves it out.
        moved: how far the outputs move, root mean square, relative to their spread around their mean; inf where they
            are not finite.
        parameters: that go with it.
    """

    change: Drop
    moved: float
    parameters: int


@dataclass(frozen=True)
class Droppable:
    """What may be left out.

    Args:
        layers: the one whose absence moves the outputs least comes first.
        skipped: by name, why a layer with parameters may not.
    """

    layers: tuple[Dropped, ...]
    skipped: Mapping[str, str]


def droppable(model: nn.Module, inputs: Inputs) -> Droppable:
    """The layers and blocks with parameters that give a tensor of the shape that they get, each left out of a copy.

    Each is tried as part of a chain (what it gets goes through) and as a branch beside a shortcut (it adds nothing);
    the way that moves the outputs less is taken.

    Args:
        model: is not changed.
        inputs: an example of many samples: the order is theirs.

    Raises:
        Unfit: the model cannot be copied, or fails with the inputs.
    """
    base, given = copied(model), inputs.to("cpu")
    expected = outputs(base, given, "the model")
    try:
        calls = passes(base, given)
    except Exception as error:
        raise Unfit(f"the model fails: {said(error)}") from error
    single = once(calls)
    called = {call.name for call in calls}
    found: list[Dropped] = []
    skipped: dict[str, str] = {}
    for name, module in base.named_modules():
        parameters = sum(tensor.numel() for tensor in module.parameters())
        if not name or not parameters:
            continue
        if name not in called:
            if next(module.parameters(recurse=False), None) is not None:
                skipped[name] = "it is not called in this forward pass"
        elif (call := single.get(name)) is None:
            skipped[name] = "it is called more than once, or does not give one tensor for one"
        elif call.given.shape != call.result.shape or call.given.dtype != call.result.dtype:
            skipped[name] = f"it gets {_shape(call.given)} and gives {_shape(call.result)}"
        else:
            try:
                found.append(_left_out(base, given, name, expected, parameters))
            except Unfit as error:
                skipped[name] = str(error)
    found.sort(key=lambda dropped: dropped.moved)
    return Droppable(tuple(found), skipped)


def _left_out(base: nn.Module, inputs: Inputs, name: str, expected: list[torch.Tensor], parameters: int) -> Dropped:
    """The better of both ways to leave a layer out.

    Raises:
        Unfit: the model fails without it, both ways.
    """
    tried: list[Dropped] = []
    problem = Unfit("")
    for change in (Drop(name), Drop(name, branch=True)):
        without = copy_of(base)
        try:
            change.apply(without)
            found = outputs(without, inputs, "the model without it")
        except Unfit as error:
            problem = error
            continue
        tried.append(Dropped(change, moved(expected, found), parameters))
    if not tried:
        raise problem
    return min(tried, key=lambda dropped: dropped.moved)


def moved(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """Root mean square of the differences between outputs, relative to the spread of the first ones; the largest over
    all outputs, inf where one is not finite or has another shape."""
    worst = 0.0
    for one, other in zip(expected, found):
        if not one.is_floating_point() or not one.numel():
            continue
        if one.shape != other.shape or not torch.isfinite(other).all():
            return float("inf")
        left, right = one.double(), other.double()
        spread = float((left - left.mean()).square().mean().sqrt())
        worst = max(worst, float((left - right).square().mean().sqrt()) / max(spread, 1e-12))
    return worst


def _shape(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
