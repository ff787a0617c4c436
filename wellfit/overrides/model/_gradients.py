"""Whether the backward of an autograd.Function is the derivative of its forward, by finite differences in float64."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wellfit.overrides.nested import tensors_in
from wellfit.overrides.words import in_short

LARGEST = 2_000_000  # numbers of one argument
DIRECTIONS = 6  # half of them from the point itself, half from one beside it
FEWEST = 3  # directions that must be fit to be judged
STEP = 1e-5  # of the argument's size
SMOOTH = 1e-3  # how far differences of two step sizes, and of both sides, may lie apart
TOLERANCE = 1e-2  # error from which on the two disagree
NOTHING = 1e-9  # a derivative below this is 0


class Unclear(Exception):
    """Why a function cannot be tested, as the end of a sentence."""


@dataclass(frozen=True)
class Compared:
    """The derivative by one argument, along some directions.

    Args:
        argument: its place among those of forward.
        error: median over the directions of |analytic - numeric| / the larger of them.
        wrong: directions in which that is above `TOLERANCE`.
        analytic, numeric: of the direction whose error is that of the median or next to it.
        directions: that could be judged.
        flat: forward does not move at all in the directions that were judged.
        straight: backward hands on what it is given, though forward does not: straight through, on purpose.
    """

    argument: int
    error: float
    wrong: int
    analytic: float
    numeric: float
    directions: int
    flat: bool
    straight: bool


def compared(function: Any, args: Sequence[Any], wanted: Sequence[int]) -> list[Compared]:
    """Compare backward with finite differences.

    Args:
        function: a subclass of `torch.autograd.Function`.
        args: of its forward, in which tensors of real numbers become float64.
        wanted: places of the arguments by which to differentiate.

    Raises:
        Unclear: it does not compute in float64, hands on its argument, is random, or is nowhere smooth.
    """
    doubled = [_doubled(arg) for arg in args]
    if sum(doubled[place].numel() for place in wanted) > LARGEST:
        raise Unclear("what it is given is too large to be tried many times")
    outputs = _forward(function, doubled)
    again = _forward(function, doubled)
    if len(outputs) != len(again) or any(not torch.equal(one, two) for one, two in zip(outputs, again)):
        raise Unclear("it gives something else each time")
    if any(out.dtype != torch.float64 for out in outputs):
        raise Unclear("it does not compute in float64")
    if all(any(_is_same(out, arg) for arg in doubled) for out in outputs):
        raise Unclear("it hands on what it is given: its gradient is made on purpose")
    cotangents = [torch.randn(out.shape, dtype=out.dtype).to(out.device) for out in outputs]
    return [found for place in wanted if (found := _by_argument(function, doubled, place, cotangents)) is not None]


def _by_argument(function: Any, args: list[Any], place: int, cotangents: list[Tensor]) -> Compared | None:
    """The comparison by one argument; None if too few directions can be judged."""
    judged: list[tuple[float, float, float]] = []  # error, analytic, numeric
    flat = straight = True
    for point in _points(args, place):
        gradient = _backward(function, point, place, cotangents)
        straight = straight and any(_is_same(gradient, cotangent) for cotangent in cotangents)
        for _ in range(DIRECTIONS // 2):
            direction = torch.randn(point[place].shape, dtype=torch.float64).to(point[place].device)
            numeric = _difference(function, point, place, direction, cotangents)
            if numeric is None:
                continue
            analytic = float((gradient * direction).sum())
            least = NOTHING + 1e-6 * float(gradient.norm())
            larger = max(abs(analytic), abs(numeric))
            if larger <= least:
                continue  # nothing moves: there is nothing to compare
            flat = flat and abs(numeric) <= least
            judged.append((abs(analytic - numeric) / larger, analytic, numeric))
    if len(judged) < FEWEST:
        return None
    middle = statistics.median_high(error for error, _, _ in judged)
    shown = next(entry for entry in judged if entry[0] == middle)
    return Compared(
        place, middle, sum(e > TOLERANCE for e, _, _ in judged), shown[1], shown[2], len(judged), flat, straight
    )


def _points(args: list[Any], place: int) -> Iterator[list[Any]]:
    """Where to look: where the script is, and beside it, off the kinks that zeros lie on."""
    yield args
    given = args[place]
    size = float(given.abs().mean()) or 1.0
    noise = torch.randn(given.shape, dtype=torch.float64).to(given.device)
    yield [*args[:place], given * (1 + 0.05 * noise) + 1e-3 * size * noise.roll(1), *args[place + 1 :]]


def _difference(
    function: Any, args: list[Any], place: int, direction: Tensor, cotangents: list[Tensor]
) -> float | None:
    """The derivative along a direction by central differences; None where forward is not smooth there."""
    given = args[place]
    step = STEP * (float(given.abs().mean()) or 1.0)

    def value(shift: float) -> float:
        moved = [*args[:place], given + shift * direction, *args[place + 1 :]]
        outputs = _forward(function, moved)
        return sum(float((out * cotangent).sum()) for out, cotangent in zip(outputs, cotangents))

    here = value(0.0)
    wide = (value(step) - value(-step)) / (2 * step)
    near, far = value(step / 2), value(-step / 2)
    narrow = (near - far) / step
    sides = ((near - here) / (step / 2), (here - far) / (step / 2))
    found = (wide, narrow, *sides)
    if any(number != number or abs(number) == float("inf") for number in found):
        return None
    scale = max(abs(number) for number in found)
    rounding = 1e-13 * abs(here) / step  # what the last bits of the outputs make of a difference
    if max(found) - min(found) > SMOOTH * scale + 10 * rounding:
        return None
    return narrow if abs(narrow) > 10 * rounding else 0.0


def _forward(function: Any, args: Sequence[Any]) -> list[Tensor]:
    """Call a function with copies of what it is given; gives its outputs of real numbers.

    Raises:
        Unclear: it fails.
    """
    copies = [arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args]
    try:
        given = function.apply(*copies)
    except Exception as error:
        raise Unclear(f"it does not take float64 ({in_short(error)})") from None
    outputs = [out for out in tensors_in(given) if out.is_floating_point()]
    if not outputs:
        raise Unclear("it gives no real numbers")
    return outputs


def _backward(function: Any, args: list[Any], place: int, cotangents: list[Tensor]) -> Tensor:
    """What its backward gives for one argument.

    Raises:
        Unclear: it fails.
    """
    copies = [arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args]
    leaf = copies[place].requires_grad_()
    with torch.enable_grad():
        copies[place] = leaf * 1.0  # a function that writes over its argument may not do so to a leaf
        try:
            outputs = [out for out in tensors_in(function.apply(*copies)) if out.is_floating_point()]
            pairs = [(out, cotangent) for out, cotangent in zip(outputs, cotangents) if out.requires_grad]
            if not pairs:
                return torch.zeros_like(leaf)
            (gradient,) = torch.autograd.grad(
                [out for out, _ in pairs], [leaf], [cotangent for _, cotangent in pairs], allow_unused=True
            )
        except Exception as error:
            raise Unclear(f"its backward does not take float64 ({in_short(error)})") from None
    return torch.zeros_like(leaf) if gradient is None else gradient.double()


def _doubled(arg: Any) -> Any:
    real = isinstance(arg, Tensor) and arg.is_floating_point()
    return arg.detach().to(torch.float64, copy=True) if real else arg


def _is_same(out: Tensor, arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.shape == out.shape and torch.equal(arg, out)
