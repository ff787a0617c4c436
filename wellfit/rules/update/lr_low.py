"""UPD502: the steps are too short, or too few, to get anywhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import FLAT_FALL, Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.rules.ratios import path_length, stands_still, update_ratios


def _raise_by(factor: int) -> Fix:
    return Fix(f"Multiply the learning rate by {factor}", override=f"lr=scale:{factor}", safe=True)


class LrLow(Rule):
    """The learning rate is too low for the number of steps: the weights are still close to where they began.

    What it checks
    The path of the weights: the sum over all steps of the median update ratio rms(update) / rms(weight). Ill is a
    finished run of at least `fewest_steps` steps whose path is below `short_path` although the loss is still above
    `unlearned` of its start, and has either hardly fallen at all or was still falling steadily: the second half of the
    run brought more than `steady` of the fall. New weights (as torch makes them) that came no further than a tenth of
    their size in 100 steps or more have learned nothing, however the loss fares, in games and GANs too. While a run
    lives, or where an override (`stop-after`) cut it off: a loss that is flat for `flat_steps` steps with no update
    ratio above `tiny`.

    Why it hurts
    The run ends before it has learned what the model could learn, however good the model is.

    Cure
    Raise the learning rate by 10 (plain SGD often needs 0.1, or momentum 0.9; Adam 1e-3 to 3e-3), or train longer, or
    take smaller batches, which gives more steps.

    Fix safety
    Safe: the program means the same. Go back if the loss becomes unsteady.

    When it is wrong
    A model that was trained before needs to move only a little: it is noted at most, if its loss began low. Where the
    gradient vanishes or the units are dead, steps are short for that reason, and those rules name this one.

    References
    Smith 2017, "Cyclical Learning Rates" (the range test); Google's tuning playbook; fixed programs of ours have paths
    of 0.6 to 28.
    """

    code = "UPD502"
    name = "lr-low"
    family: ClassVar[Family] = "update"
    summary = "learning rate too low, or too few steps: the weights hardly move"
    reads = ("update.rms", "loss")
    consequences = ("plateau", "never-updated")
    fixes = (
        _raise_by(10),
        Fix("Train for more steps, or with smaller batches", safe=True),
    )

    short_path: float = 0.25  # sum of update ratios over the run; runs that learned have 0.6 and more
    usual_path: float = 1.0  # of runs that learn
    unlearned: float = 0.5  # loss at the end over that of the start; healthy runs mostly end below
    steady: float = 0.2  # share of the fall in the second half of the run; 0.5 is a straight line
    fewest_steps: int = 15  # steps; shorter runs are trials
    tiny: float = 1e-5  # update ratio; healthy runs peak above 8e-4
    flat_steps: int = 200  # steps without a fall, for a verdict while the run lives

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-6)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
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
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        still = stands_still(record)
        if state.verdict == "non-finite" or record.events("exception"):
            return
        if not still and (state.adversarial or state.verdict == "diverging"):
            return
        ratios = update_ratios(record)
        path = path_length(ratios, record.step_count)
        median = ratios.median
        known = median[np.isfinite(median)]
        if not len(known) or not path > 0:
            return
        peak = float(known.max())
        stuck = state.verdict == "flat" and peak < self.tiny and state.steps >= self.flat_steps
        ended = record.finished and not record.events("stopped")  # one that wellfit cut off was not to learn all
        over = ended and record.step_count >= self.fewest_steps and path < self.short_path
        if not stuck and not over:
            return
        fits = not state.adversarial and not state.end > self.unlearned * state.level
        if not stuck and fits:
            return
        late = _late_share(record.loss().value)
        certain = stuck or state.fall < FLAT_FALL or late >= self.steady or still
        yield self._told(record, state, path, peak, late, certain)

    def _told(self, record: Record, state: Condition, path: float, peak: float, late: float, certain: bool) -> Finding:
        optimizer = next((one for one in record.optimizers.values() if one.parameters), None)
        lr = record.hyper("lr", optimizer.id if optimizer else None)
        rate = float(np.nanmax(lr.value)) if len(lr) else float("nan")
        falls = (
            "did not fall" if state.fall <= 0
            else "hardly fell" if state.fall < FLAT_FALL
            else "was still falling" if late >= self.steady
            else "stays high"
        )  # fmt: skip
        factor = 10 ** min(max(round(math.log10(self.usual_path / path)), 1), 3)
        return self.finding(
            f"the weights moved only {100 * path:.2g} % of their own size in {record.step_count} steps (at most "
            f"{100 * peak:.2g} % in one), and the loss {falls} ({state.start:.4g} to {state.end:.4g}), so the run "
            f"ends before it has learned; raise the learning rate{f' {rate:.3g}' if rate == rate else ''} by {factor}, "
            "or train longer",
            severity="error" if certain else "note", location=optimizer.location if optimizer else None,
            evidence={
                "path": path, "peak_u": peak, "lr": rate, "short_path": self.short_path, "start": state.start,
                "end": state.end, "late_share": late, "steps": record.step_count,
            },
            fixes=(_raise_by(factor), *self.fixes[1:]),
        )  # fmt: skip


def _late_share(value: Floats) -> float:
    """Which share of the fall of the loss came in the second half of the run; 0 if it did not fall."""
    seen = value[np.isfinite(value)]
    tenth = max(1, len(seen) // 10)
    if len(seen) < 4:
        return 0.0
    start, end = float(np.mean(seen[:tenth])), float(np.mean(seen[-tenth:]))
    half = len(seen) // 2
    middle = float(np.mean(seen[max(0, half - tenth) : half]))
    return (middle - end) / (start - end) if start > end else 0.0
