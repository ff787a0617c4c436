"""NUM004: steps that half precision rounds away."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Parameter, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.precision import HALF_STEP, cast_place


class UpdateLost(Rule):
    """Weights kept in half precision stay where they are, because each step is less than half of the distance to the
    next number.

    What it checks
        Up to 1024 numbers of each weight matrix in bfloat16 or float16 before and after a step: the share of those
        whose gradient is not 0 that kept their value. Its median over at least `samples` sampled steps, and over the
        weights, above `lost`. It is an error if the loss stays above `unlearned` of where it began, a note if it stays
        above `converged`; also a note where the loss began below `trained_before` of the loss of guessing and falls.

    Why it hurts
        bfloat16 has 8 bits: a step shorter than 0.2 to 0.4 % of a weight leaves it as it is, step after step, and what
        should have added up over many steps is lost. The loss stops early, or never falls.

    Cure
        Keep the weights in float32 and compute under `torch.autocast`; or use an optimizer with float32 master weights
        or stochastic rounding.

    Fix safety
        Float32 weights under autocast mean the same, at twice the memory for the weights.

    When it is wrong
        An optimizer with stochastic rounding leaves many numbers as they are, and moves the others further: its run
        learns, and gets a note at most.

    References
        Zamirai et al.: Revisiting BFloat16 training (2020); the PyTorch notes on automatic mixed precision.
    """

    code = "NUM004"
    name = "update-lost"
    family = "numerics"
    summary = "half precision rounds the steps away: the weights do not change"
    reads = ("update.low", "update.high", "loss")
    consequences = ("plateau", "lr-low", "output-collapse", "rank-collapse", "layer-imbalance")
    fixes = (Fix("Keep the weights in float32 and compute under autocast", override="precision=float32"),)

    lost: float = 0.8  # share of the numbers with a gradient; healthy bfloat16 runs 0.2 to 0.75, faulty ones 0.9 to 1
    samples: int = 15  # sampled steps; the first 20 of a run are sampled
    unlearned: float = 0.7  # loss at the end over the lower of first loss and chance
    converged: float = 0.3  # the same; a run below has done its job
    trained_before: float = 0.7  # first loss over the loss of guessing; a model that began below was trained before
    flat_steps: int = 200  # steps without a fall, to be told while the run lives

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).bfloat16(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        model.to(torch.bfloat16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
        for _epoch in range(5):
            for batch in torch.randperm(1400).split(20):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]).float(), y[batch])
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
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _epoch in range(5):
            for batch in torch.randperm(1400).split(20):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        lost = {
            parameter.name: share
            for parameter in record.parameters.values()
            if parameter.dtype in HALF_STEP and len(parameter.shape) >= 2
            if math.isfinite(share := self._lost(record, parameter))
        }
        if not lost or not float(np.median(list(lost.values()))) > self.lost:
            return
        state = condition(record)
        if not fits_poorly(state, self.converged) or state.verdict == "non-finite":
            return
        worst = max(lost, key=lambda name: lost[name])
        parameter = record.parameters[worst]
        optimizer = record.optimizer_of(parameter)
        middle = float(np.median(list(lost.values())))
        yield self.finding(
            f"steps are rounded away: {100 * middle:.0f} % of the numbers of {len(lost)} weights in {parameter.dtype} "
            f"keep their value in a step though their gradient is not 0 (`{worst}`: {100 * lost[worst]:.0f} %): "
            f"less than {100 * HALF_STEP[parameter.dtype]:.2g} % of a number is nothing to it, and the loss stays at "
            f"{state.end:.4g}; keep the weights in float32 and compute under torch.autocast, or use an optimizer with "
            "float32 master weights",
            severity="error" if self._ill(state) else "note",
            step=int(record.series("update", worst).step[self.samples - 1]),
            layer=parameter.layer or worst,
            location=cast_place(record, parameter.dtype)
            or (optimizer.location if optimizer is not None else parameter.location),
            evidence={"lost": middle, "threshold": self.lost, "dtype": parameter.dtype, "worst": lost[worst],
                      "start": state.start, "end": state.end},
            sure=record.finished or (state.verdict == "flat" and state.steps >= self.flat_steps),
        )  # fmt: skip

    def _ill(self, state: Condition) -> bool:
        """Whether the run does not do its job; one that goes on from a trained model need not fall far."""
        goes_on = state.verdict == "learning" and state.start < self.trained_before * state.chance
        return fits_poorly(state, self.unlearned) and not goes_on

    def _lost(self, record: Record, parameter: Parameter) -> float:
        """Share of a weight's numbers with a gradient that did not change, median over steps; NaN if too few."""
        if parameter.optimizer is not None and _never_trained(record, parameter.optimizer):
            return math.nan
        series = record.series("update", parameter.name)
        moved_or_lost = series.count - (series.low - series.high)  # without those that have no gradient
        known = np.isfinite(moved_or_lost) & (moved_or_lost > 0) & np.isfinite(series.high)
        if np.count_nonzero(known) < self.samples:
            return math.nan
        return float(np.median(series.high[known] / moved_or_lost[known]))


def _never_trained(record: Record, optimizer: int) -> bool:
    """Whether some group of an optimizer always had a learning rate of 0: that is another illness."""
    known = record.optimizers.get(optimizer)
    rates = [record.hyper("lr", optimizer, group) for group in range(len(known.groups) if known is not None else 0)]
    return any(len(rate) > 0 and not np.any(rate.value > 0) for rate in rates)
