"""How much a changed model has lost: by the user's own evaluation, or by how far its outputs are the dense ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import device_of, evaluating, tensors_in
from wellfit.slim.methods.checked import said

ENOUGH = 100
"""So many classes must be compared for their agreement to tell a percent; with fewer, the outputs themselves count."""

Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Verdict:
    """What was found of a model.

    Args:
        metric: of `evaluate`; else the share of agreement in percent.
        lost: points that it is below the dense model.
        moved: root mean square of the change of the outputs, relative to their spread; inf where one is not finite.
        same: share of the samples (or places) for which the largest output is the same one; None where there are no
            classes to compare.
    """

    metric: float
    lost: float
    moved: float
    same: float | None


class Judge:
    """Holds models against the dense one.

    A metric from 0 to 1 is a share, of which a point is 0.01; any other counts in units of its own. Without `evaluate`
    the metric is the share of the same largest outputs, in percent; for outputs without classes, or an example batch
    of fewer than `ENOUGH`, 100 less the percent by which they moved.

    Args:
        model: the dense model, on its device; is not changed.
        inputs: an example batch.
        evaluate: gives a number that is higher for a better model; None: agreement is all that is known.

    Raises:
        WellfitError: the model fails with the inputs or returns no tensor, or `evaluate` fails.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, evaluate: Evaluate | None = None) -> None:
        self._inputs = inputs.to(device_of(model))
        self._evaluate = evaluate
        self._expected = self.outputs(model, "the model fails with the example inputs")
        if not self._expected:
            raise WellfitError("the model returns no tensor for the example inputs: there is nothing to compare")
        self.classes = _class_axis(self._expected[0]) is not None and self.samples >= ENOUGH
        self.dense = 100.0 if evaluate is None else self._metric(model)
        if not math.isfinite(self.dense):
            raise WellfitError(f"{self.measure} gives {self.dense} for the dense model: there is nothing to hold on to")
        self._points = 100.0 if evaluate is not None and 0 <= self.dense <= 1 else 1.0

    @property
    def measure(self) -> str:
        """By what is judged, in words: the name of `evaluate`, if it has one."""
        if self._evaluate is not None:
            name = getattr(self._evaluate, "__name__", "")
            return str(name) if str(name).isidentifier() else "evaluate"
        return "agreement of classes" if self.classes else "agreement of outputs"

    @property
    def samples(self) -> int:
        """How many decisions are compared without `evaluate`."""
        first, axis = self._expected[0], _class_axis(self._expected[0])
        return first.numel() // first.shape[axis] if axis is not None else first.numel()

    def outputs(self, model: nn.Module, what: str = "the changed model fails") -> list[torch.Tensor]:
        """The tensors that a model returns for the inputs, complex ones as pairs."""
        try:
            with evaluating(model):
                torch.manual_seed(0)
                found = tensors_in(self._inputs.copied().call(model))
                return [_real(tensor).detach().clone() for tensor in found]
        except Exception as error:
            raise WellfitError(f"{what}: {said(error)}") from error

    def moved(self, model: nn.Module) -> float:
        """See `Verdict`; inf for a model that fails."""
        try:
            return _moved(self._expected, self.outputs(model))
        except WellfitError:
            return math.inf

    def of(self, model: nn.Module) -> Verdict:
        """All that is found of a model."""
        found = self.outputs(model)
        moved = _moved(self._expected, found)
        same = _same(self._expected[0], found[0]) if found and found[0].shape == self._expected[0].shape else 0.0
        if self._evaluate is not None:
            metric = self._metric(model)
            lost = (self.dense - metric) * self._points
            return Verdict(metric, lost if math.isfinite(lost) else math.inf, moved, same)
        is_shared = same is not None and (self.classes or not self._expected[0].is_floating_point())
        metric = 100 * same if same is not None and is_shared else max(0.0, 100 - 100 * moved)
        return Verdict(metric, 100 - metric, moved, same)

    def _metric(self, model: nn.Module) -> float:
        assert self._evaluate is not None
        with evaluating(model):
            value: Any = self._evaluate(model)
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError):
            raise WellfitError(
                f"evaluate is to return one number, higher for a better model; it returned {type(value).__name__}"
            ) from None


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _class_axis(tensor: torch.Tensor) -> int | None:
    """Where the classes of an output lie: last, or second in maps of four dimensions and more; None for others."""
    if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.numel():
        return None
    axis = 1 if tensor.dim() >= 4 else tensor.dim() - 1
    return axis if tensor.shape[axis] > 1 else None


def _same(expected: torch.Tensor, found: torch.Tensor) -> float | None:
    axis = _class_axis(expected)
    if axis is None:
        return None if expected.is_floating_point() else float((expected == found).double().mean())
    return float((expected.argmax(axis) == found.argmax(axis)).double().mean())


def _moved(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    if len(expected) != len(found):
        return math.inf
    worst = 0.0
    for one, two in zip(expected, found):
        if one.shape != two.shape or not bool(torch.isfinite(two).all()):
            return math.inf
        if not one.is_floating_point():
            worst = max(worst, float((one != two).double().mean()) if one.numel() else 0.0)
        elif one.numel():
            left, right = one.double(), two.double()
            spread = float((left - left.mean()).square().mean().sqrt()) or float(left.abs().max())
            off = float((left - right).square().mean().sqrt())
            worst = max(worst, off / spread if spread else off)
    return worst
