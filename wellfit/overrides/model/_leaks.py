"""Whether what a model gives for one sample depends on another: two calls that differ in one sample, compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_hook

from wellfit.overrides.nested import mapped, reals_in, tensors_in
from wellfit.overrides.traceless import no_trace
from wellfit.overrides.words import in_short

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program

FEWEST = 3  # samples: one that is changed, one that it is changed into, one that must stay
LARGEST = 20_000_000  # elements of input: more would be no test but a load
EXACT = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the outputs' size: rounding alone reaches a tenth of that
COARSE = 3e-2  # the same, of half precision
_NORMS = ("BatchNorm", "SyncBatchNorm")


@dataclass(frozen=True)
class Leak:
    """What depends on another sample.

    Args:
        module: the innermost module whose input does not, while its output does.
        share: largest change of an output of another sample, in the size of all outputs.
        changed: which sample was changed.
    """

    module: nn.Module
    share: float
    changed: int


class Unclear(Exception):
    """Why a model cannot be tested, as the end of a sentence."""


def axes_of(call: ForwardCall, size: int | None) -> list[int]:
    """The axes of a model's first input that may be the batch.

    Args:
        size: samples of the batch, where the target of the loss tells.

    Raises:
        Unclear: none can be, or what else the model is given says how samples hang together.
    """
    given = [tensor for tensor in tensors_in((call.args, call.kwargs)) if tensor.dim()]
    if not given or (given[0].dim() < 2 and given[0].is_floating_point()):
        raise Unclear("it is given no tensor with an axis for samples and one for features")
    first = given[0]
    if sum(tensor.numel() for tensor in given) > LARGEST:
        raise Unclear("its input is too large to be tried several times")
    if any(_is_graph(tensor, first) for tensor in given[1:]):
        raise Unclear("it is also given how its samples hang together")
    axes = [axis for axis in range(min(2, first.dim())) if size is None or first.shape[axis] == size]
    if not axes:  # a target of (batch * time) numbers
        both = first.dim() > 1 and size == first.shape[0] * first.shape[1]
        axes = [0, 1] if both else []
    axes = [axis for axis in axes if first.shape[axis] >= FEWEST]
    if not axes:
        raise Unclear("it is not known which axis of its input is the batch")
    if len(axes) == 2 and first.shape[0] == first.shape[1]:
        raise Unclear("two axes of its input are of the same length")
    return axes


def _is_graph(tensor: Tensor, first: Tensor) -> bool:
    """Whether a tensor is a list of edges, or a matrix of what is connected with what."""
    if tensor.layout != torch.strided:
        return True
    square = tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] == first.shape[0]
    return square or (tensor.dim() == 2 and tensor.shape[0] == 2 and not tensor.is_floating_point())


def leak_along(program: Program, root: nn.Module, call: ForwardCall, axis: int) -> Leak | None:
    """The first dependence of a sample's output on another sample, with samples along an axis; None if there is none.

    Raises:
        Unclear: the model gives another output each time, no output with this axis, or cannot be called in eval mode.
    """
    size = next(tensors_in((call.args, call.kwargs))).shape[axis]
    plain = _called(program, root, call.args, call.kwargs)
    again = _called(program, root, call.args, call.kwargs)
    last = plain[-1]
    outputs = [place for place, tensor in enumerate(last.tensors) if last.axis_of(tensor, axis, size) is not None]
    if not outputs:
        raise Unclear("its output has no axis for the samples of a batch")
    if any(one.differs(other) for one, other in zip(plain, again)) or len(plain) != len(again):
        raise Unclear("it gives another output each time, in eval mode too")
    for changed in (0, size - 1):
        args, kwargs = _with_other_sample((call.args, call.kwargs), axis, size, changed)
        if args is None:
            continue
        calls = _called(program, root, args, kwargs)
        found = calls[-1].leak(plain[-1], axis, size, changed)
        if found:
            module = _first_leak(plain, calls, axis, size, changed) or root
            return None if type(module).__name__.startswith(_NORMS) else Leak(module, found, changed)
    return None


@dataclass
class _Seen:
    """A call of a module: what it was given and what it gave, detached."""

    module: nn.Module
    given: list[Tensor]
    tensors: list[Tensor]

    def axis_of(self, tensor: Tensor, axis: int, size: int) -> int | None:
        """Where the samples lie in a tensor; None if that is not clear."""
        if axis < tensor.dim() and tensor.shape[axis] == size and sum(n == size for n in tensor.shape[:2]) == 1:
            return axis
        places = [place for place, length in enumerate(tensor.shape[:2]) if length == size]
        return places[0] if len(places) == 1 else None

    def differs(self, other: _Seen) -> bool:
        """Whether two calls that should be the same gave different numbers."""
        if len(self.tensors) != len(other.tensors):
            return True
        pairs = zip(self.tensors, other.tensors)
        return any(one.shape != two.shape or not torch.equal(one, two) for one, two in pairs)

    def leak(self, plain: _Seen, axis: int, size: int, changed: int, given: bool = False) -> float:
        """How much other samples than the changed one differ, in the size of all; 0 if they do not."""
        worst = 0.0
        mine, theirs = (self.given, plain.given) if given else (self.tensors, plain.tensors)
        for one, other in zip(mine, theirs):
            place = self.axis_of(one, axis, size)
            if place is None or one.shape != other.shape:
                continue
            others = [number for number in range(size) if number != changed]
            index = torch.tensor(others, device=one.device)
            kept, before = (tensor.index_select(place, index).double() for tensor in (one, other))
            scale = float(before.abs().mean())
            largest = float((kept - before).abs().max()) if kept.numel() else 0.0
            if scale > 0 and largest > EXACT.get(one.dtype, COARSE) * scale:
                worst = max(worst, largest / scale)
        return worst


def _called(program: Program, root: nn.Module, args: Any, kwargs: Any) -> list[_Seen]:
    """Call a model in eval mode, with no trace left; the calls of it and its modules, in the order of their end."""
    seen: list[_Seen] = []
    inside = {id(module) for module in root.modules()}

    def look(module: nn.Module, given: Any, output: Any) -> None:
        if id(module) in inside:
            copies = ([tensor.detach().clone() for tensor in reals_in(part)] for part in (given, output))
            seen.append(_Seen(module, *copies))

    modes = [(module, module.training) for module in root.modules()]
    with no_trace(program, root), torch.no_grad():
        hook = register_module_forward_hook(look)
        try:
            for module, _ in modes:
                module.training = False
            root(*_copied(args), **_copied(kwargs))
        except Exception as error:
            raise Unclear(f"it cannot be called by way of trial ({in_short(error)})") from None
        finally:
            hook.remove()
            for module, training in modes:
                module.training = training
    if not seen or seen[-1].module is not root or not seen[-1].tensors:
        raise Unclear("it gives no tensor of real numbers")
    return seen


def _copied(value: Any) -> Any:
    return mapped(value, lambda tensor: tensor.detach().clone())


def _with_other_sample(given: Any, axis: int, size: int, changed: int) -> tuple[Any, Any]:
    """The same arguments with one sample replaced by another that differs: in all tensors that have this axis."""
    first = next(tensors_in(given))
    own = first.select(axis, changed)
    donor = next((n for n in range(size) if n != changed and not torch.equal(first.select(axis, n), own)), None)
    if donor is None:
        return None, None

    def change(tensor: Tensor) -> Tensor:
        place = axis if tensor.dim() > axis and tensor.shape[axis] == size else None
        if place is None and tensor.dim() == 1 and len(tensor) == size:
            place = 0  # the lengths of (time, batch) sequences
        copy = tensor.detach().clone()
        if place is not None:
            copy.select(place, changed).copy_(tensor.detach().select(place, donor))
        return copy

    args, kwargs = mapped(given, change)
    return args, kwargs


def _first_leak(plain: Sequence[_Seen], calls: Sequence[_Seen], axis: int, size: int, changed: int) -> nn.Module | None:
    """The module that ends first of those whose input does not depend on another sample, while their output does."""
    if [seen.module for seen in plain] != [seen.module for seen in calls]:
        return None
    for one, other in zip(calls, plain):
        if one.leak(other, axis, size, changed) and not one.leak(other, axis, size, changed, given=True):
            return one.module
    return None


def same_input(before: Sequence[Tensor], now: Iterator[Tensor]) -> bool:
    """Whether a model is given the very numbers that it was given before."""
    pairs = list(zip(before, now))
    return bool(pairs) and all(one.shape == two.shape and torch.equal(one, two) for one, two in pairs)
