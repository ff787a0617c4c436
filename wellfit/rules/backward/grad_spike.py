"""GRD403: single batches whose gradient throws the weights back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Curve, Record
from wellfit.record.curves import Floats, Steps, running_median
from wellfit.rule import Rule
from wellfit.rules.grids import grid
from wellfit.rules.layering import first_backward


@dataclass(frozen=True)
class _Spike:
    """One step with a gradient that stands out, after which the loss was higher.

    Args:
        step: of it.
        size: its norm over the usual one.
        rose: the loss after it over the loss before.
    """

    step: int
    size: float
    rose: float


class GradSpike(Rule):
    """The gradients of a few batches are many times larger than all others, and throw back what was learned.

    What it checks
        The norm of the whole gradient as the optimizer gets it (after clipping), in the sampled steps after the first
        `warm_up`: steps in which it is `times` its running median and `of_start` times that of the first steps, and the
        median of the next `after` losses is `rose` times that before, by `widths` times the noise of the loss. At least
        `fewest` such steps, in at most `most` of the samples (more are an exploding gradient). It is an error if
        afterwards the running median of the loss is that high for more than `lost` of the steps, or the loss is flat,
        diverging or at the level of guessing; else a note.

    Why it hurts
        Such a step is as long as many others together, in the direction of a few samples: it takes the weights to where
        the loss is high, and Adam's second moment keeps steps short for long after it.

    Cure
        Clip the norm of the gradient at about its 90th percentile, and look at these batches: outliers in the targets,
        square roots and logarithms near 0. A loss that grows less with the error (Huber) helps where outliers belong to
        the data.

    Fix safety
        Safe: clipping keeps the direction of each step.

    When it is wrong
        Samples of which the model has to learn more than of others: their gradient is large by right, and the loss is
        not higher after their step.

    References
        Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks (2013); Takase et al.: Spike
        no more (2023).
    """

    code = "GRD403"
    name = "grad-spike"
    family = "backward"
    summary = "the gradients of single batches throw the weights back"
    reads = ("gradient.rms", "loss")
    consequences = ("spike", "diverged", "oscillation", "plateau", "lr-high")
    fixes = (Fix("Clip the norm of the gradient", override="clip-norm", safe=True),)

    times: float = 10.0  # norm over its running median; healthy runs reach 8.4 (13 once), after the warm-up
    of_start: float = 3.0  # norm over that of the first steps: gradients of a fitted model are small
    rose: float = 1.5  # loss after the spike over the loss before
    after: int = 5  # losses before and after that are compared
    fewest: int = 2  # spikes that harm; one may be chance
    most: float = 0.25  # share of the samples
    widths: float = 3.0  # rise of the loss over its noise (1.48 median absolute deviations)
    lost: float = 0.3  # share of the steps after the first spike whose loss is as high as after a spike
    warm_up: int = 20  # steps; batch norm begins with gradients up to 35 times their later size
    samples: int = 20  # sampled steps after the warm-up
    window: int = 15  # sampled steps of the running median

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_diabetes
        from torch import nn

        torch.manual_seed(0)
        x, y = load_diabetes(return_X_y=True)
        x, y = torch.tensor(x / x.std(0)).float(), torch.tensor((y - y.mean()) / y.std()).float()[:, None]
        y[torch.arange(0, 440, 220)] = 99.0  # how somebody wrote "unknown"
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for _epoch in range(5):
            for batch in torch.randperm(len(x)).split(8):
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
        x, y = torch.tensor(x / x.std(0)).float(), torch.tensor((y - y.mean()) / y.std()).float()[:, None]
        y[torch.arange(0, 440, 220)] = 99.0
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for _epoch in range(5):
            for batch in torch.randperm(len(x)).split(8):
                optimizer.zero_grad()
                loss = nn.functional.smooth_l1_loss(model(x[batch]), y[batch])
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        names = [name for name in record.subjects("gradient") if name in record.parameters]
        gradients = grid(record, "gradient", names)
        norm = gradients.norm({name: record.parameters[name].size for name in gradients.names})
        known = np.isfinite(norm) & (norm > 0)
        step, norm = gradients.step[known], norm[known]
        curve = record.loss()
        if np.count_nonzero(step >= self.warm_up) < self.samples or not len(curve):
            return
        state = condition(record)
        if state.adversarial or state.verdict == "non-finite" or not state.start > 0:
            return
        spikes = self._spikes(step, norm, curve, state.noise)
        if len(spikes) < self.fewest:
            return
        worst = max(spikes, key=lambda spike: spike.size)
        first = spikes[0].step
        usual = float(np.median(curve.value[curve.step < first][-4 * self.after :]))
        smooth = curve.smoothed(self.after)
        lost = float(np.mean(smooth.value[smooth.step > first] > self.rose * usual))
        yield self.finding(
            f"the gradients of single batches are up to {worst.size:.0f} times as large as usual, and the loss is "
            f"{float(np.median([spike.rose for spike in spikes])):.3g} times as high after them (steps "
            f"{', '.join(str(spike.step) for spike in spikes[:5])}): each of these steps throws back what was learned; "
            "clip the norm of the gradient, and look for outliers in these batches",
            severity="error" if lost > self.lost or state.ill else "note",
            step=first,
            location=first_backward(record),
            evidence={"spikes": len(spikes), "worst": worst.size, "rose": worst.rose, "lost": lost,
                      "steps": [str(spike.step) for spike in spikes[:20]], "loss": state.verdict},
            sure=record.finished,
        )  # fmt: skip

    def _spikes(self, step: Steps, norm: Floats, curve: Curve, noise: float) -> list[_Spike]:
        """Steps whose gradient stands out and after which the loss is higher; none if too many stand out.

        Of those that follow one another within `after` steps the first counts.
        """
        usual = np.concatenate([norm[:1], running_median(norm, self.window)[:-1]])  # of the samples before each
        begin = float(np.median(norm[: self.window]))
        high = (norm > self.times * usual) & (norm > self.of_start * begin) & (step >= self.warm_up)
        if not high.any() or np.mean(high[step >= self.warm_up]) > self.most:
            return []
        found: list[_Spike] = []
        for place in np.flatnonzero(high)[:100]:
            at = int(np.searchsorted(curve.step, step[place]))
            before, later = curve.value[max(0, at - 2 * self.after) : at], curve.value[at + 1 : at + 1 + self.after]
            if len(before) < self.after or len(later) < self.after:
                continue
            level = float(np.median(before))
            rose = float(np.median(later)) / level if level > 0 else 0.0
            apart = not found or step[place] - found[-1].step > self.after
            if apart and rose > self.rose and (rose - 1) * level > self.widths * noise:
                found.append(_Spike(int(step[place]), float(norm[place] / usual[place]), rose))
        return found
