"""UPD503: parameters that have a gradient and yet keep their value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Optimizer, Parameter, Record
from wellfit.rule import Family, Rule

HALVES = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half the distance to the next number, relative


@dataclass(frozen=True)
class _Stuck:
    """A parameter and the share of its sampled elements that kept their value though their gradient is not 0."""

    parameter: Parameter
    share: float
    step: int


class NeverUpdated(Rule):
    """The optimizer steps, the gradient is not zero, and the parameter does not change.

    What it checks
    Up to 4096 elements of each parameter before and after a step. Ill is a parameter of which none changed in any of at
    least `steps` sampled steps while some of their gradients were not 0; or one in half precision of which more than
    `lost_share` did not change although their gradient is not 0 (median over the sampled steps).

    Why it hurts
    The parameter keeps its initial value, or most of what it should learn is rounded away: adding less than half of
    the distance to the next number leaves a number as it is, and bfloat16 has only 8 bits for that.

    Cure
    Where the learning rate is 0: look at the parameter group and the scheduler. In half precision: keep the parameters
    in float32 and compute under `torch.autocast`, or use an optimizer with float32 master weights or stochastic
    rounding. Otherwise look at what the optimizer was given.

    Fix safety
    Float32 parameters with autocast mean the same and are safe, at twice the memory for the weights.

    When it is wrong
    A scheduler that warms up from a learning rate of exactly 0 over more steps than were seen; parameters that a
    projection puts back after each step. Parameters without any effect, such as a bias before batch norm, are left
    out: their gradient is the rest that rounding leaves (below `noise`, or `half_noise` in half precision, of that of
    another parameter of their layer).

    References
    Zamirai et al. 2020, "Revisiting BFloat16 Training"; the PyTorch notes on automatic mixed precision.
    """

    code = "UPD503"
    name = "never-updated"
    family: ClassVar[Family] = "update"
    summary = "parameters have a gradient but do not change"
    reads = ("update.low", "update.high", "loss")
    consequences = ("plateau", "lr-low")
    fixes = (
        Fix("Keep the parameters in float32 and compute under autocast"),
        Fix("Give the parameters a learning rate above 0", safe=True),
    )

    steps: int = 15  # sampled steps in which nothing changed; the first 20 of a run are sampled
    lost_share: float = 0.5  # elements; a bfloat16 run at a usual rate loses 0.2
    # The gradient of a parameter without effect, such as a bias before batch norm, is what rounding leaves of 0.
    noise: float = 1e-4  # of the largest rms gradient in the layer; a bias before batch norm has below 1e-5
    half_noise: float = 0.2  # the same in half precision, where it has up to 0.1

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
        rounded: list[_Stuck] = []
        seen = 0
        for name in record.subjects("update"):
            parameter = record.parameters.get(name)
            if parameter is None or not parameter.requires_grad:
                continue
            series = record.series("update", name)
            if len(series) < self.steps:
                continue
            seen += 1
            lost = float(np.nanmedian(series.high_share)) if np.isfinite(series.high_share).any() else 0.0
            step = int(series.step[self.steps - 1])
            if np.all(series.low >= series.count) and np.mean(series.high > 0) > 0.5:
                if _rate(record, parameter) == 0 or not self._is_noise(record, parameter):
                    stuck.append(_Stuck(parameter, lost, step))
            elif parameter.dtype in HALVES and lost > self.lost_share and len(parameter.shape) >= 2:
                rounded.append(_Stuck(parameter, lost, step))
        half = [one for one in stuck if one.parameter.dtype in HALVES and _rate(record, one.parameter) != 0]
        frozen = [one for one in stuck if one not in half]
        if frozen:
            yield self._frozen(record, frozen, seen)
        if rounded or half:
            yield self._rounded(record, [*half, *rounded], seen)

    def _is_noise(self, record: Record, parameter: Parameter) -> bool:
        """Whether a parameter's gradient is so small beside another one of its layer that it is a rest of rounding."""
        layer = record.layers.get(parameter.layer or "")
        if layer is None:
            return False

        def size(name: str) -> float:
            rms = record.series("gradient", name).rms
            return float(np.median(rms)) if len(rms) else 0.0

        largest = max((size(name) for name in layer.parameters), default=0.0)
        noise = self.half_noise if parameter.dtype in HALVES else self.noise
        return size(parameter.name) < noise * largest

    def _frozen(self, record: Record, stuck: list[_Stuck], seen: int) -> Finding:
        """Nothing ever changed in full precision."""
        first = stuck[0]
        optimizer = _optimizer(record, first.parameter)
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

    def _rounded(self, record: Record, lost: list[_Stuck], seen: int) -> Finding:
        """Half precision rounds most of the updates away."""
        worst = max(lost, key=lambda one: one.share)
        state = condition(record)
        optimizer = _optimizer(record, worst.parameter)
        certain = not state.well or worst.share > 0.9
        return self.finding(
            f"{100 * worst.share:.0f} % of `{worst.parameter.name}` does not change in a step though its gradient is "
            f"not 0 ({len(lost)} of {seen} parameters): it is {worst.parameter.dtype}, and a step of less than "
            f"{100 * HALVES[worst.parameter.dtype]:.2g} % of a number is rounded away; keep the weights in float32 and "
            "use torch.autocast, or an optimizer with float32 master weights",
            severity="error" if certain else "note", step=worst.step,
            layer=worst.parameter.layer or worst.parameter.name,
            location=optimizer.location if optimizer else worst.parameter.location,
            evidence={"lost_share": worst.share, "threshold": self.lost_share, "dtype": worst.parameter.dtype,
                      "parameters": [one.parameter.name for one in lost[:20]]},
            sure=record.finished,
        )  # fmt: skip


def _optimizer(record: Record, parameter: Parameter) -> Optimizer | None:
    """The optimizer that holds a parameter."""
    return record.optimizers.get(parameter.optimizer) if parameter.optimizer is not None else None


def _rate(record: Record, parameter: Parameter) -> float | None:
    """The highest learning rate that any group which may hold the parameter had; None where it is unknown.

    Which group holds which parameter is not recorded: 0 is told if some group of its optimizer always had 0.
    """
    optimizer = _optimizer(record, parameter)
    if optimizer is None:
        return None
    rates = [record.hyper("lr", optimizer.id, group) for group in range(max(1, len(optimizer.groups)))]
    peaks = [float(np.max(rate.value)) for rate in rates if len(rate)]
    return min(peaks) if peaks else None
