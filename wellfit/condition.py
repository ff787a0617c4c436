"""Is the run doing its job? What every rule asks before it calls a symptom an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wellfit.record import Curve, Loss, Record

Verdict = Literal["too-short", "learning", "flat", "diverging", "non-finite"]

FEWEST_STEPS = 20  # below this nothing is said about a curve
FLAT_FALL = 0.02  # a loss that fell by less than 2 % of its start is flat (healthy runs: >= 34 % in 200 steps)
CONVERGED = 0.3  # a loss below this share of its start has done its job, flat or not
AT_CHANCE = 0.97  # share of the loss of knowing only how frequent the answers are; healthy runs end below 0.85
DIVERGED = 2.0  # the loss stands at twice its best, and 8 noise widths above it


@dataclass(frozen=True)
class Condition:
    """How the training loss fared.

    Args:
        verdict: in one word.
        steps: steps that have a loss.
        start: median loss of the first steps.
        best: lowest running median.
        end: median loss of the last steps.
        fall: (start - end) / |start|: share of the loss that was unlearned; negative if it rose.
        noise: 1.48 x median absolute deviation of the loss around its running median.
        bad_step: first step whose loss is not finite, or None.
        chance: loss of a model that knows only how frequent the answers are, where it can be told; NaN elsewhere.
        adversarial: several losses that need not fall (a GAN, an actor and its critic).
    """

    verdict: Verdict
    steps: int
    start: float
    best: float
    end: float
    fall: float
    noise: float
    bad_step: int | None
    chance: float
    adversarial: bool

    @property
    def well(self) -> bool:
        """True if the training loss falls as it should: symptoms are then notes at most."""
        return self.verdict == "learning" or (self.adversarial and self.verdict != "non-finite")

    @property
    def ill(self) -> bool:
        """True if the run surely does not do its job: flat, diverging, non-finite, or no better than chance at its end."""
        if self.adversarial:
            return self.verdict == "non-finite"
        if self.verdict == "too-short":
            return False
        no_better = self.steps >= FEWEST_STEPS and self.chance > 0 and self.end >= AT_CHANCE * self.chance
        return self.verdict != "learning" or no_better


def condition(record: Record, site: int | None = None) -> Condition:
    """The condition of one training loss.

    Args:
        site: backward site; None is the one with most steps.
    """
    curve = record.loss(site)
    values = curve.value
    adversarial = _adversarial(record)
    finite = np.isfinite(values)
    bad_step = _first_bad(curve)
    chance = chance_level(record)
    if finite.sum() < 2:
        verdict: Verdict = "non-finite" if bad_step is not None else "too-short"
        nan = math.nan
        return Condition(verdict, len(values), nan, nan, nan, nan, nan, bad_step, chance, adversarial)
    seen = values[finite]
    window = max(3, min(50, len(seen) // 10))
    smooth = Curve(curve.step[finite], seen).smoothed(window).value
    start = float(np.median(seen[: max(3, min(10, len(seen) // 10))]))
    end = float(smooth[-1])
    best = float(np.min(smooth[window - 1 :])) if len(smooth) >= window else float(np.min(smooth))
    noise = 1.48 * float(np.median(np.abs(seen - smooth)))
    fall = (start - end) / max(abs(start), 1e-12)
    if bad_step is not None:
        verdict = "non-finite"
    elif len(seen) < FEWEST_STEPS:
        verdict = "too-short"
    elif end > best + 8 * noise + (DIVERGED - 1) * abs(best) and end > start:
        verdict = "diverging"
    elif fall < FLAT_FALL and not (0 <= end < CONVERGED * start):
        verdict = "flat"
    else:
        verdict = "learning"
    return Condition(verdict, len(values), start, best, end, fall, noise, bad_step, chance, adversarial)


def _first_bad(curve: Curve) -> int | None:
    """The first step whose loss is NaN or infinite and stays so, or is not one of a few that a scaler skipped."""
    bad = np.flatnonzero(~np.isfinite(curve.value))
    if len(bad) == 0 or len(bad) == len(curve) and len(curve) < 1:
        return None
    after = curve.value[bad[0] :]
    if len(after) > 10 and np.isfinite(after[-1]) and len(bad) < 0.05 * len(curve):
        return None
    return int(curve.step[bad[0]])


def _adversarial(record: Record) -> bool:
    """Two or more places of backward with optimizers of their own that take turns."""
    sites = record.loss_sites()
    if len(sites) < 2 or len(record.optimizers) < 2:
        return False
    steps = [len(record.loss(site)) for site in sites[:4]]
    return steps[1] > 0.1 * steps[0]


def training_loss(record: Record) -> Loss | None:
    """The loss function that training uses, if it is one that torch knows; the first of several."""
    trained = [loss for loss in record.losses.values() if loss.training]
    return trained[0] if trained else None


def classes(record: Record) -> int | None:
    """Number of classes of a cross-entropy or negative log-likelihood loss, or None."""
    loss = training_loss(record)
    if loss is None or loss.function not in ("cross_entropy", "nll_loss"):
        return None
    shape = loss.prediction_shape
    if not shape:
        return None
    return int(shape[1] if len(shape) > 1 else shape[0])


def chance_level(record: Record) -> float:
    """The loss of a model that has learned nothing but the mean: ln C, ln 2, or the variance of the target; else NaN."""
    loss = training_loss(record)
    if loss is None or loss.reduction != "mean":
        return math.nan
    if loss.function in ("cross_entropy", "nll_loss"):
        count = classes(record)
        return math.log(count) if count and count > 1 else math.nan
    if loss.function in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        return math.log(2)
    if loss.function == "mse_loss":
        target = record.series("target", str(loss.id))
        if len(target):
            count, mean, square = target.count, target.mean, target.rms**2
            whole = float(np.average(square, weights=count) - np.average(mean, weights=count) ** 2)
            return whole if whole > 0 else math.nan
    return math.nan
