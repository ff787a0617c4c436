"""Gradients that grow: back through the layers, back through time, or from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.record.curves import Floats, Steps
from wellfit.rule import Rule
from wellfit.rules.layering import chains


class Exploding(Rule):
    """The gradient grows without bound.

    What it checks
        In a run that is not doing its job: (1) rms(dL/d output) of the first linear layer over the last above
        `first_to_last` in most samples; (2) the gradient's norm above `growth` times its first values while the loss
        diverges; (3) the norm above `spike` times its running median in `spikes` of 20 samples after the warm-up.
        Back in time it is recurrent-explode that looks.

    Why it hurts
        Early layers, or early moments, take steps that are far too long and throw away what was learned; in the end the
        numbers overflow.

    Cure
        Clip the gradient's norm, lower the learning rate, scale inputs and targets, or use a normalisation or smaller
        initial weights.

    Fix safety
        Clipping and a lower learning rate keep what the program means.

    When it is wrong
        Convolutions with BatchNorm start with gradients up to 35 times their later size: the first `warm_up` steps do
        not count for spikes.

    References
        Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks (2013).
    """

    code = "GRD402"
    name = "exploding"
    family = "backward"
    summary = "the gradient grows on its way back or from step to step"
    reads = ("activation_gradient.rms", "gradient.rms", "loss")
    consequences = (
        "grad-spike",
        "spike",
        "diverged",
        "non-finite-forward",
        "non-finite-grad",
        "plateau",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "scaler-thrash",
        "overflow-near",
    )
    fixes = (
        Fix("Clip the norm of the gradient", override="clip-norm=1.0", safe=True),
        Fix("Divide the learning rate by 10", override="lr=scale:0.1", safe=True),
        Fix("Initialise by Xavier or Kaiming", override="init=xavier"),
    )

    first_to_last: float = 5.0  # ratio; healthy networks <= 0.61 (3.4: deep, residual), faulty ones 5.2 .. 2500
    growth: float = 1000.0  # gradient norm over its first values; healthy runs fall, or rise to 35 at the start
    spike: float = 10.0  # gradient norm over its running median
    spikes: int = 5  # of the last 20 samples
    warm_up: int = 20  # steps

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(1024, 16)
        y = (x[:, 0] + x[:, 1] > 0).long()
        layers: list[nn.Module] = []
        for width in (16, *[64] * 15):
            layer = nn.Linear(width, 64)
            nn.init.orthogonal_(layer.weight, gain=5.0)
            layers += [layer, nn.Tanh()]
        model = nn.Sequential(*layers, nn.Linear(64, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
        for _epoch in range(15):
            for batch in torch.randperm(1024).split(128):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(1024, 16)
        y = (x[:, 0] + x[:, 1] > 0).long()
        layers: list[nn.Module] = []
        for width in (16, *[64] * 15):
            layer = nn.Linear(width, 64)
            nn.init.orthogonal_(layer.weight, gain=1.1)
            layers += [layer, nn.Tanh()]
        model = nn.Sequential(*layers, nn.Linear(64, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
        for _epoch in range(15):
            for batch in torch.randperm(1024).split(128):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        how = condition(record)
        if not how.ill:
            return
        finding = self._in_steps(record, how) or self._in_depth(record, how)
        if finding is not None:
            yield finding

    def _in_steps(self, record: Record, how: Condition) -> Finding | None:
        steps, norm = gradient_norm(record)
        optimizer = next(iter(record.optimizers.values()), None)
        known = np.isfinite(norm) & (norm > 0)
        steps, norm = steps[known], norm[known]
        if len(norm) < 3:
            return None
        grown = float(norm[-3:].max() / np.median(norm[:2]))
        spikes = self._spiking(steps, norm)
        if how.verdict in ("diverging", "non-finite") and grown > self.growth:
            at = int(steps[np.flatnonzero(norm > self.growth * np.median(norm[:2]))[0]])
            what = f"the gradient explodes: its norm grew {grown:.0e}-fold up to step {int(steps[-1])}"
        elif spikes >= self.spikes:
            at = int(steps[-1])
            what = f"the gradient explodes in {spikes} of 20 samples: its norm is over {self.spike:g} times its median"
        else:
            return None
        return self.finding(
            f"{what}, so each step throws away what was learned; lower the learning rate, clip the gradient, and scale "
            "inputs and targets",
            severity="error",
            step=at,
            location=optimizer.location if optimizer is not None else None,
            evidence={"growth": grown, "threshold": self.growth, "spikes": spikes, "loss": how.verdict},
        )

    def _spiking(self, steps: Steps, norm: Floats) -> int:
        norm = norm[steps >= self.warm_up]
        if len(norm) < 20:
            return 0
        return int((norm[-20:] > self.spike * np.median(norm[-40:])).sum())

    def _in_depth(self, record: Record, how: Condition) -> Finding | None:
        for chain in chains(record):
            ratio = _backward_ratio(record, chain)
            if not ratio > self.first_to_last:
                continue
            return self.finding(
                f"the gradient grows on its way back: at `{chain[0].name}` it is {ratio:.3g} times what it is at "
                f"`{chain[-1].name}`, so the early layers take steps that are too long; use smaller initial weights, a "
                "normalisation, or clip the gradient",
                severity="error",
                step=int(record.series("activation_gradient", chain[0].name).step[0]),
                layer=chain[0].name,
                location=chain[0].location,
                evidence={"first_to_last": ratio, "threshold": self.first_to_last, "loss": how.verdict},
                sure=record.finished or record.step_count > 100,
            )
        return None


def _backward_ratio(record: Record, chain: Sequence[Layer]) -> float:
    """rms(dL/d output) of the first layer over the last: the lower quartile over samples, so that most are above."""
    first, last = (record.series("activation_gradient", layer.name) for layer in (chain[0], chain[-1]))
    _, here, there = np.intersect1d(first.step, last.step, return_indices=True)
    with np.errstate(all="ignore"):
        ratio = first.rms[here] / last.rms[there]
    ratio = ratio[np.isfinite(ratio)]
    return float(np.quantile(ratio, 0.25)) if len(ratio) >= 5 else math.nan


def gradient_norm(record: Record) -> tuple[Steps, Floats]:
    """Steps and the norm of the whole gradient at each; NaN or infinite where a part of it was."""
    parts = [record.series("gradient", name) for name in record.subjects("gradient")]
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(series.step for series in parts)]))
    squares = np.zeros(len(steps))
    for series in parts:
        parameter = record.parameters.get(series.subject)
        size = parameter.size if parameter is not None else 1
        with np.errstate(over="ignore"):
            np.add.at(squares, np.searchsorted(steps, series.step), size * series.rms * series.rms)
    return steps, np.sqrt(squares)
