"""Whether a changed model computes what it should: its outputs on example inputs, held against others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from wellfit.slim.changes import Unfit
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import tensors_in

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""Differences that rounding explains, relative to the largest output."""


def copied(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode.

    Raises:
        Unfit: the model cannot be copied.
    """
    try:
        return copy.deepcopy(model).cpu().eval()
    except Exception as error:
        raise Unfit(f"the model cannot be copied: {said(error)}") from error


@contextmanager
def same_chances() -> Iterator[None]:
    """The same random numbers each time, and the program's own ones as they were; no gradients."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


def result_of(run: Callable[[], Any], what: str) -> list[torch.Tensor]:
    """The tensors that a call of a model returns.

    Raises:
        Unfit: it fails.
    """
    try:
        with same_chances():
            return [tensor.detach().clone() for tensor in tensors_in(run())]
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"{what} fails: {said(error)}") from error


def outputs(model: nn.Module, inputs: Inputs, what: str) -> list[torch.Tensor]:
    """The tensors that a model returns for the inputs.

    Raises:
        Unfit: it fails.
    """
    return result_of(lambda: inputs.copied().call(model), what)


def difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The largest difference between two lists of outputs, relative to the largest output of each; inf where their
    shapes differ or one is not finite."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    worst = 0.0
    for one, other in zip(expected, found):
        if not (one.is_floating_point() or one.is_complex()):
            worst = max(worst, float(not torch.equal(one, other)))
            continue
        if not one.numel():
            continue
        if not (torch.isfinite(one) == torch.isfinite(other)).all():
            return float("inf")
        finite = torch.isfinite(one)
        left, right = one[finite].double(), other[finite].double()
        if left.numel():
            largest = max(float(left.abs().max()), 1e-12)
            worst = max(worst, float((left - right).abs().max()) / largest)
    return worst


def tolerance(tensors: list[torch.Tensor]) -> float:
    """How far outputs of these types may differ by rounding."""
    return max((_TOLERANCE.get(tensor.dtype, 0.0) for tensor in tensors), default=0.0)


def said(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
