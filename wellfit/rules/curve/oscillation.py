"""CRV604: the loss jumps up and down from step to step and does not settle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.record.curves import Floats, running_median
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import fits_poorly


class Oscillation(Rule):
    """The loss goes up after each step down, and down after each step up, by a large part of itself.

    What it checks
    The losses of the later half of a run, without their running median. Ill is a run whose loss ends above `unlearned`
    of its start, where these are as wide as `wide` of the loss, and neighbours lie on opposite sides: their
    correlation is below `turn`, and that of every second one above `again`. Batches that differ make a loss that is
    noisy, but not one that turns at each step. Several losses, and loaders of two batches, are left out.

    Why it hurts
    Each step jumps across the valley to its other side. The run goes back and forth at one height and never gets down.

    Cure
    Divide the learning rate by 3 to 10, or let it decay; use less momentum.

    Fix safety
    Safe: the program means the same, and the change can be taken back.

    When it is wrong
    Two batches in turn, one of them much harder than the other, make such a curve as well.

    References
    Cohen et al. 2021, "Gradient descent on neural networks typically occurs at the edge of stability".
    """

    code = "CRV604"
    name = "oscillation"
    family: ClassVar[Family] = "curve"
    summary = "the loss jumps up and down at each step and does not settle"
    reads = ("loss",)
    consequences = ("plateau", "underfit")
    fixes = (Fix("Divide the learning rate by 10", override="lr=scale:0.1", safe=True),)

    wide: float = 0.3  # 1.48 x median absolute deviation from the running median, over the median of the loss
    turn: float = -0.5  # correlation of neighbours; noise: 0, standard error 0.1; healthy runs stay above -0.32
    again: float = 0.3  # correlation of every second one; three batches in turn have -0.5
    unlearned: float = 0.5  # loss at the end over that of the start, or of chance where it is lower
    steps: int = 100  # steps in the later half
    window: int = 20  # steps of the running median

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(200, 5)
        y = 2 * x[:, :1] + 1
        model = nn.Linear(5, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
        # The gradient of an absolute error does not get smaller as the error does.
        for _ in range(300):
            loss = nn.functional.l1_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(200, 5)
        y = torch.sin(2 * x[:, :1])
        model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        # Batches of four are as noisy as can be, and the loss falls all the same.
        for _ in range(400):
            batch = torch.randint(0, 200, (4,))
            loss = nn.functional.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        if state.adversarial or state.verdict in ("non-finite", "too-short") or not fits_poorly(state, self.unlearned):
            return
        curve = record.loss()
        value = curve.value[len(curve) // 2 :]
        if len(value) < self.steps or not np.all(np.isfinite(value)) or value.min() < 0 or _in_turn(record):
            return
        level = float(np.median(value))
        wide, turn, again = self._swing(value)
        if not level > 0 or not wide > self.wide * level or not turn < self.turn or not again > self.again:
            return
        optimizer = next(iter(record.optimizers.values()), None)
        yield self.finding(
            f"the loss jumps up and down at each step, by {100 * wide / level:.0f} % of itself about {level:.3g}, so "
            "steps go from one side of the valley to the other and never down; divide the learning rate by 10, or let "
            "it decay",
            severity="error", step=int(curve.step[len(curve) // 2]),
            location=optimizer.location if optimizer is not None else None,
            evidence={"swing": wide / level, "correlation": turn, "level": level, "start": state.start},
            sure=record.finished,
        )  # fmt: skip

    def _swing(self, value: Floats) -> tuple[float, float, float]:
        """Width of the losses about their running median, and the correlations of neighbours and of every second."""
        away = value - running_median(value, self.window)
        square = float(np.sum(away * away))
        if not 0 < square < math.inf:
            return 0.0, 0.0, 0.0
        turn, again = (float(np.sum(away[lag:] * away[:-lag])) / square for lag in (1, 2))
        return 1.48 * float(np.median(np.abs(away))), turn, again


def _in_turn(record: Record) -> bool:
    """Whether two losses or two batches take turns, which makes such a curve by itself."""
    trained = [loss for loss in record.losses.values() if loss.training]
    two = any(loader.length == 2 for loader in record.loaders.values())
    return two or len(trained) > 1 or len(record.loss_sites()) > 1 or len(record.optimizers) > 1
