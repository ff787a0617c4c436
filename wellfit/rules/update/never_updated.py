"""UPD503: parameters that have a gradient and yet keep their value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wellfit.finding import Finding, Fix
from wellfit.record import Parameter, Record
from wellfit.rule import Family, Rule
from wellfit.rules.precision import HALF_STEP


@dataclass(frozen=True)
class _Stuck:
    """A parameter that kept its value, and the step at which that was seen often enough."""

    parameter: Parameter
    step: int


class NeverUpdated(Rule):
    """The optimizer steps, the gradient is not zero, and the parameter does not change.

    What it checks
    Up to 1024 elements of each parameter before and after a step. Ill is a parameter of which none changed in any of at
    least `steps` sampled steps while some of their gradients were not 0. Half precision that rounds steps away is
    another illness (update-lost).

    Why it hurts
    The parameter keeps its initial value: what the layer could learn is not learned.

    Cure
    Where the learning rate is 0: look at the parameter group and the scheduler. Otherwise look at what the optimizer
    was given, and whether something puts the parameter back after each step.

    Fix safety
    A learning rate above 0 is what an optimizer is for; where the parameter should stay as it is, say so with
    `requires_grad` set to False.

    When it is wrong
    A scheduler that warms up from a learning rate of exactly 0 over more steps than were seen; parameters that a
    projection puts back after each step. Parameters without any effect, such as a bias before batch norm, are left
    out: their gradient is the rest that rounding leaves (below `noise` of that of another parameter of their layer).

    References
    PyTorch documentation, torch.optim, per-parameter options; TrainCheck (2025).
    """

    code = "UPD503"
    name = "never-updated"
    family: ClassVar[Family] = "update"
    summary = "parameters have a gradient but do not change"
    reads = ("update.low", "update.high", "loss")
    consequences = ("plateau", "lr-low")
    fixes = (Fix("Give the parameters a learning rate above 0", safe=True),)

    steps: int = 15  # sampled steps in which nothing changed; the first 20 of a run are sampled
    # The gradient of a parameter without effect, such as a bias before batch norm, is what rounding leaves of 0.
    noise: float = 1e-4  # of the largest rms gradient in the layer; a bias before batch norm has below 1e-5

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        head = nn.Linear(64, 10)
        optimizer = torch.optim.SGD(
            [{"params": body.parameters(), "lr": 0.0}, {"params": head.parameters(), "lr": 0.3}], lr=0.1
        )
        for _epoch in range(2):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(head(body(x[batch])), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        body = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        head = nn.Linear(64, 10)
        optimizer = torch.optim.SGD(
            [{"params": body.parameters(), "lr": 0.1}, {"params": head.parameters(), "lr": 0.3}], lr=0.1
        )
        for _epoch in range(2):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(head(body(x[batch])), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        stuck: list[_Stuck] = []
        seen = 0
        for name in record.subjects("update"):
            parameter = record.parameters.get(name)
            if parameter is None or not parameter.requires_grad:
                continue
            series = record.series("update", name)
            if len(series) < self.steps:
                continue
            seen += 1
            if not np.all(series.low >= series.count) or not np.mean(series.high > 0) > 0.5:
                continue
            moves = parameter.dtype not in HALF_STEP and not self._is_noise(record, parameter)
            if moves or _rate(record, parameter) == 0:
                stuck.append(_Stuck(parameter, int(series.step[self.steps - 1])))
        if stuck:
            yield self._told(record, stuck, seen)

    def _is_noise(self, record: Record, parameter: Parameter) -> bool:
        """Whether a parameter's gradient is so small beside another one of its layer that it is a rest of rounding."""
        layer = record.layers.get(parameter.layer or "")
        if layer is None:
            return False

        def size(name: str) -> float:
            rms = record.series("gradient", name).rms
            return float(np.median(rms)) if len(rms) else 0.0

        largest = max((size(name) for name in layer.parameters), default=0.0)
        return size(parameter.name) < self.noise * largest

    def _told(self, record: Record, stuck: list[_Stuck], seen: int) -> Finding:
        """One finding for all of them."""
        first = stuck[0]
        optimizer = record.optimizer_of(first.parameter)
        rate = _rate(record, first.parameter)
        zero = rate == 0
        why = (
            "the learning rate of its group is 0" if zero else "each step is too short for its precision, or is undone"
        )
        cure = (
            "give the group a learning rate, or set requires_grad to False if it shall stay as it is"
            if zero
            else "look at the learning rate and at what the optimizer was given"
        )
        return self.finding(
            f"`{first.parameter.name}` has a gradient but no sampled element changed in {self.steps} steps or more "
            f"({len(stuck)} of {seen} parameters): {why}, so it keeps its initial value; {cure}",
            severity="error", step=first.step, layer=first.parameter.layer or first.parameter.name,
            location=optimizer.location if optimizer else first.parameter.location,
            evidence={"parameters": [one.parameter.name for one in stuck[:20]], "of": seen, "steps": self.steps,
                      **({"lr": rate} if rate is not None else {})},
        )  # fmt: skip


def _rate(record: Record, parameter: Parameter) -> float | None:
    """The highest learning rate that any group which may hold the parameter had; None where it is unknown.

    Which group holds which parameter is not recorded: 0 is told if some group of its optimizer always had 0.
    """
    optimizer = record.optimizer_of(parameter)
    if optimizer is None:
        return None
    rates = [record.hyper("lr", optimizer.id, group) for group in range(max(1, len(optimizer.groups)))]
    peaks = [float(np.max(rate.value)) for rate in rates if len(rate)]
    return min(peaks) if peaks else None
