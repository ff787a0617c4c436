"""CRV602: single batches throw the model far back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import MOSTLY_ZERO, Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.record.curves import Floats, running_median
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.layering import first_backward


class Spike(Rule):
    """The loss of single batches is many times that of the others, and the model is worse after each of them.

    What it checks
    Losses above `times` the median of the `window` before, above `share` of the run's start, by `widths` widths of the
    noise, and `lone` times the very next: where the data change, or a model is made anew, the next batches are as bad.
    Counted are they only if the next `after` batches are on the median worse by `back` times, and worse than `control`
    of all other places in the run: a hard sample alone leaves the model as it was. It takes `fewest` of them. An error
    where the run spends more than `lost` of its steps since then above twice the level from which it was thrown, and
    ends above `unlearned` of its start; else a note.

    Why it hurts
    One gradient that is far too long moves the weights away from what was learned; then it has to be learned again,
    until the next one comes.

    Cure
    Look at the batches in which it happens (wrong labels, outliers, samples of length 0), clip the norm of the
    gradient, or skip such batches; take a loss that grows less with the error (Huber).

    Fix safety
    Clipping keeps what the program means. Another loss has another optimum.

    When it is wrong
    Data that change from part to part of a run, as in a curriculum.

    References
    Chowdhery et al. 2022, "PaLM", section 5.1, on spikes and skipped batches; Pascanu, Mikolov and Bengio 2013.
    """

    code = "CRV602"
    name = "spike"
    family: ClassVar[Family] = "curve"
    summary = "single batches throw the model far back"
    reads = ("loss",)
    consequences = ("underfit",)
    fixes = (
        Fix("Clip the norm of the gradient", override="clip-norm=1.0", safe=True),
        Fix("Take a loss that grows less with the error", override="loss=huber"),
    )

    times: float = 10.0  # loss over the median before it
    share: float = 0.5  # of the loss at the start: a model that is nearly done has large ratios of small numbers
    widths: float = 8.0  # 1.48 x median absolute deviation about the running median
    lone: float = 3.0  # loss over that of the next batch; where data change it is 1 to 2
    back: float = 2.0  # median loss of the batches after it over the median before it
    control: float = 0.95  # quantile of the same at other places: single samples differ widely by themselves
    after: int = 5  # batches
    fewest: int = 3  # such losses, in a run that ended
    lost: float = 0.2  # share of the steps since the first of them
    unlearned: float = 0.5  # loss at the end over that of the start, or of chance where it is lower
    window: int = 25  # steps of the running median
    warm_up: int = 20  # steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        y = torch.tensor((y - y.mean()) / y.std()).float().unsqueeze(1)
        y[17] = 3000.0  # one value in another unit
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
        for _epoch in range(8):
            for batch in torch.randperm(440).split(8):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x = torch.tensor(x / x.std(0)).float()
        y = torch.tensor((y - y.mean()) / y.std()).float().unsqueeze(1)
        y[17] = 30.0
        model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        # The outlier's loss is large once an epoch, but its gradient is cut.
        for _epoch in range(8):
            for batch in torch.randperm(440).split(8):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x[batch]), y[batch])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if not record.finished:
            return
        state = condition(record)
        curve = record.loss()
        value = curve.value
        if state.adversarial or len(value) < 4 * self.window or not np.all(np.isfinite(value)):
            return
        if len(np.unique(record.steps["a"])) > 1:
            return  # one model after another, each with a start of its own
        # Below 0 a loss has no floor that ratios could be taken to.
        if state.start <= 0 or value.min() < 0 or np.mean(value == 0) > MOSTLY_ZERO:
            return
        level = running_median(value, self.window)
        usual = np.concatenate([[np.inf], level[:-1]])  # of the losses before each
        places = self._spikes(value, usual, state)
        if len(places) < self.fewest or not self._throw(value, usual, places):
            return
        before = float(np.median(usual[places]))
        lost = float(np.mean(value[places[0] :] > 2 * before))
        worst = float(value[places].max())
        poor = lost > self.lost and fits_poorly(state, self.unlearned)
        yield self.finding(
            f"{len(places)} batches have a loss of up to {worst:.3g}, {worst / before:.0f} times that of the others, "
            f"and the loss stays high after each of them ({100 * lost:.0f} % of the steps are lost); look for wrong "
            "labels or outliers in these batches, and clip the gradient",
            severity="error" if poor else "note", step=int(curve.step[places[0]]), location=first_backward(record),
            evidence={
                "spikes": len(places), "worst": worst, "usual": before, "lost": lost,
                "steps": [str(int(step)) for step in curve.step[places[:10]]],
            },
        )  # fmt: skip

    def _spikes(self, value: Floats, usual: Floats, state: Condition) -> list[int]:
        """Where single losses stand out; those close together count once."""
        limit = np.maximum(np.maximum(self.times * usual, self.share * state.start), usual + self.widths * state.noise)
        alone = np.append(value[:-1] > self.lone * value[1:], False)
        places: list[int] = []
        for place in np.flatnonzero((value > limit) & alone)[:1000]:
            if self.warm_up <= place < len(value) - self.after and not (places and place - places[-1] <= self.after):
                places.append(int(place))
        return places

    def _throw(self, value: Floats, usual: Floats, places: list[int]) -> bool:
        """Whether the losses after these places are high for the run."""
        following = np.median(np.lib.stride_tricks.sliding_window_view(value[1:], self.after), axis=1)
        with np.errstate(all="ignore"):
            worse = following / usual[: len(following)]
        near = np.zeros(len(worse), np.bool_)
        near[: self.warm_up] = True
        for place in places:
            near[max(place - self.after, 0) : place + 1] = True
        others = worse[~near & np.isfinite(worse)]
        control = float(np.quantile(others, self.control)) if len(others) else np.inf
        return bool(float(np.median(worse[places])) > max(self.back, control))
