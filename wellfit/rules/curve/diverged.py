"""CRV601: the training loss went up for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition, phases, rise
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.ratios import stands_still


class Diverged(Rule):
    """The training loss rose far above its best and stays there.

    What it checks
    The loss that backward is called on. Ill is a running median at `times` its best and more, by `widths` widths of the
    noise, for `steps` steps; or a last quarter of the run whose mean lies `share` above that of the best twelfth of the
    run, by `errors` standard errors, where the best lies in the first two thirds. In runs with two losses that take
    turns (a GAN, an actor and its critic) losses need not fall, and nothing is said.

    Why it hurts
    What was learned is lost again; the model at the end is worse than the one at the best step.

    Cure
    Lower the learning rate by 3 to 10 or let it decay, clip the gradient norm, take larger batches, and go back to the
    best checkpoint. Look whether the data change while training goes on.

    Fix safety
    A lower learning rate and clipping are safe; larger batches change how many steps an epoch has.

    When it is wrong
    New weights that have hardly left their place did not raise the loss: that is left to lr-low. A curriculum that
    makes the task harder, or a loss whose weights change over the run, may rise by design.

    References
    Google's tuning playbook, "training instability"; Zhang et al. 2021, "AutoTrainer"; Chowdhery et al. 2022, PaLM.
    """

    code = "CRV601"
    name = "diverged"
    family: ClassVar[Family] = "curve"
    summary = "the training loss rose for good"
    reads = ("loss",)
    consequences = ("spike", "plateau", "overfit", "scaler-thrash")
    fixes = (
        Fix("Divide the learning rate by 10", override="lr=scale:0.1", safe=True),
        Fix("Clip the gradient norm", override="clip-norm=1.0", safe=True),
    )

    times: float = 2.0  # running median over its best
    widths: float = 8.0  # 1.48 x median absolute deviation of the loss
    steps: int = 20  # steps in a row
    share: float = 0.2  # rise of the last quarter over the best part; healthy runs do not rise at all
    errors: float = 4.0  # standard errors of the two means
    level: float = 0.3  # the loss must end above this share of its first part: a converged run may wobble

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        y = torch.tensor((y - y.mean()) / y.std()).float().unsqueeze(1)
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=1.03)
        for _epoch in range(20):
            for batch in torch.randperm(440).split(55):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                scheduler.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        y = torch.tensor((y - y.mean()) / y.std()).float().unsqueeze(1)
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
        for _epoch in range(20):
            for batch in torch.randperm(440).split(55):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                scheduler.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        if state.adversarial or stands_still(record):
            return
        curve = record.loss()
        finite = np.isfinite(curve.value)
        value, step = curve.value[finite], curve.step[finite]
        if len(value) < 2 * self.steps:
            return
        gap = max((self.times - 1) * abs(state.best), self.widths * state.noise)
        high = value[-self.steps :]
        if (
            np.median(high) > state.best + gap
            and np.mean(high > state.best + gap / 2) > 0.9
            and state.end > state.start
        ):
            began = int(step[np.flatnonzero(value <= state.best + gap)[-1]]) if np.any(value <= state.best + gap) else 0
            yield self._told(record, state.best, state.end, began)
            return
        for phase in phases(record, curve) if record.finished else ():
            risen = rise(phase)
            if risen is None or not risen.early or risen.best <= 0:
                continue
            if (
                risen.late > (1 + self.share) * risen.best
                and risen.widths > self.errors
                and risen.late > self.level * risen.first
            ):
                yield self._told(record, risen.best, risen.late, risen.step)
                return

    def _told(self, record: Record, best: float, end: float, step: int) -> Finding:
        return self.finding(
            f"the training loss rose from {best:.4g} at its best to {end:.4g} and stays there since about step {step}, "
            "so what was learned is lost again; lower the learning rate or clip the gradient norm, and see whether the "
            "data change during training",
            severity="error", step=step, location=_optimizer_line(record),
            evidence={"best": best, "end": end, "times": self.times, "share": self.share},
            sure=record.finished or end > 4 * best,
        )  # fmt: skip


def _optimizer_line(record: Record) -> Location | None:
    """Where the first optimizer was made, else where backward is called."""
    places = [optimizer.location for optimizer in record.optimizers.values()]
    places += [record.backward_sites[site].location for site in record.loss_sites() if site in record.backward_sites]
    return next((place for place in places if place is not None), None)
