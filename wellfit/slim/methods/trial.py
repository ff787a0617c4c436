"""One layer by itself, as it is and changed, on what it is given in the model: bytes, milliseconds, and outputs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wellfit.slim.changes import Change, Unfit
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import compare
from wellfit.slim.measure.running import evaluating, tensors_in
from wellfit.slim.methods.checked import outputs, said

FASTER = 1.2
"""Only what is so many times as fast, measured, is called faster: less comes and goes with the machine."""


@dataclass(frozen=True)
class Trial:
    """What a change does to a layer.

    Args:
        change: of this layer in its model.
        before, after: bytes of its state.
        milliseconds: median of one call as it is. speedup: how many times as fast the changed one is.
        error: root mean square of the difference of outputs, relative to that of the outputs.
        idle: the change has done nothing: same types of modules and tensors, same bytes, same outputs.
    """

    change: Change
    before: int
    after: int
    milliseconds: float
    speedup: float
    error: float
    idle: bool

    @property
    def is_faster(self) -> bool:
        """By at least `FASTER`."""
        return self.speedup >= FASTER

    @property
    def is_smaller(self) -> bool:
        """In bytes."""
        return self.after < self.before


class Alone(nn.Module):
    """A layer by itself, under the name that changes of it have here: `layer`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As of the layer."""
        return self.layer(*args, **kwargs)


def given_to(model: nn.Module, inputs: Inputs, layers: Iterable[str]) -> Mapping[str, Inputs]:
    """What each layer is called with first, in a forward pass in evaluation mode; those not called are left out."""
    found: dict[str, Inputs] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            found.setdefault(name, Inputs(args, kwargs, inputs.batch_axis).copied())

        return hook

    with ExitStack() as stack, evaluating(model):
        for name in layers:
            handle = model.get_submodule(name).register_forward_pre_hook(note(name), with_kwargs=True)
            stack.callback(handle.remove)
        inputs.copied().call(model)
    return found


def tried(layer: nn.Module, change: Any, inputs: Inputs, *, seconds: float = 0.3) -> Trial:
    """Make a change to a copy of a layer, and measure both in turn.

    Args:
        layer: is not changed.
        change: with the field `layer`, the layer's name in its model.
        inputs: what it is called with.
        seconds: how long to measure.

    Raises:
        Unfit: the change cannot be made, or what it makes fails.
    """
    plain, other = Alone(copy.deepcopy(layer)), Alone(copy.deepcopy(layer))
    try:
        dataclasses.replace(change, layer="layer").apply(other)
    except Unfit as error:
        raise Unfit(str(error).removeprefix("layer: ")) from None
    except Exception as error:  # a backend's own, of settings that it does not know
        raise Unfit(f"it fails: {said(error)}") from error
    expected = outputs(plain.eval(), inputs, "the layer")
    found = outputs(other.eval(), inputs, "the changed layer")
    same = len(expected) == len(found) and all(torch.equal(one, two) for one, two in zip(expected, found))
    before, after = state_bytes(plain), state_bytes(other)
    idle = same and before == after and _types(plain) == _types(other)
    pair = compare(plain, other, inputs, seconds=seconds)
    return Trial(change, before, after, pair.first.p50, pair.speedup, _moved(expected, found), idle)


def state_bytes(module: nn.Module) -> int:
    """Of all tensors that a file of the module would hold; what a tensor of another class holds inside counts."""
    seen: dict[int, int] = {}
    for tensor in module.state_dict().values():
        for part in _inside(tensor):
            seen[part.data_ptr() or id(part)] = part.numel() * part.element_size()
    return sum(seen.values())


def _inside(tensor: Any) -> Iterable[torch.Tensor]:
    if not isinstance(tensor, torch.Tensor):
        return
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _inside(getattr(tensor, name))
    else:
        yield tensor


def _types(module: nn.Module) -> list[Any]:
    """Of modules, and of their tensors."""
    tensors = module.state_dict().values()
    return [type(part) for part in module.modules()] + [(type(t), getattr(t, "dtype", None)) for t in tensors]


def _moved(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    worst = 0.0
    for one, two in zip(expected, found, strict=True):
        if one.shape != two.shape or one.is_floating_point() != two.is_floating_point():
            raise Unfit("the changed layer gives other shapes or types")
        if not one.is_floating_point():  # the lengths of a packed sequence
            if not torch.equal(one, two):
                raise Unfit("the changed layer gives other whole numbers")
            continue
        size = float(one.double().square().mean().sqrt()) if one.numel() else 0.0
        off = float((one.double() - two.double()).square().mean().sqrt()) if one.numel() else 0.0
        worst = max(worst, off / size if size else off)
    return worst


def spans(layer: nn.Module, inputs: Inputs) -> tuple[tuple[float, float], tuple[float, float]]:
    """Smallest and largest activation that goes in, and that comes out.

    Raises:
        Unfit: there is none, or it fails.
    """
    into = [tensor for tensor in tensors_in([inputs.args, dict(inputs.kwargs)]) if tensor.is_floating_point()]
    out = outputs(layer, inputs, "the layer")
    if not into or not into[0].numel() or not out or not out[0].numel():
        raise Unfit("no activations were seen")
    return (float(into[0].min()), float(into[0].max())), (float(out[0].min()), float(out[0].max()))
