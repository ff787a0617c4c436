"""Whether a changed model computes what it should: its outputs on example inputs, held against others."""

from __future__ import annotations

import copy
import math
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
        return copy_of(model).cpu().eval()
    except Exception as error:
        raise Unfit(f"the model cannot be copied: {said(error)}") from error


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of its own; sparse parameters, which torch does not copy, are copied too."""
    memo: dict[int, object] = {
        id(tensor): nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
        for tensor in model.parameters()
        if tensor.layout != torch.strided
    }
    return copy.deepcopy(model, memo)


def scrambled(model: nn.Module) -> nn.Module:
    """A copy with random numbers in all parameters and in the statistics of norms, large enough that each layer hands
    on what it gets and no attention is even: weights near zero, or a norm that changes nothing yet, would hide a
    mistake.
    """
    made = copy_of(model)
    random = torch.Generator().manual_seed(0)
    statistics = [
        (name, buffer) for name, buffer in made.named_buffers() if name.endswith(("running_mean", "running_var"))
    ]
    with torch.no_grad():
        for name, tensor in [*made.named_parameters(), *statistics]:
            if not tensor.is_floating_point() or tensor.layout != torch.strided:
                continue
            # Products get the weights that keep the size of what goes through, [out, in, ...] in all layers of torch.
            spread = math.sqrt(2 / tensor[0].numel()) if tensor.dim() > 1 else 0.7
            noise = torch.randn(tensor.shape, generator=random) * spread
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return made


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
