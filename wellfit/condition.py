"""Is the run doing its job? What every rule asks before it calls a symptom an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wellfit.record import Curve, Loss, Record
from wellfit.record.curves import Floats, Steps
from wellfit.source import main_source

Verdict = Literal["too-short", "learning", "flat", "diverging", "non-finite"]

FEWEST_STEPS = 20  # below this nothing is said about a curve
FLAT_FALL = 0.02  # a loss that fell by less than 2 % of its start is flat (healthy runs: >= 34 % in 200 steps)
MOSTLY_ZERO = 0.3  # share of losses that are exactly 0 from which on medians say nothing
BOTH_SIGNS = 0.05  # share of losses on the rarer side of 0 from which on 0 is no floor, and nothing has to fall
CONVERGED = 0.3  # a loss below this share of its start has done its job, flat or not
TURNS = 0.1  # share of the steps that the second player of a game takes at least
DRIFT = 1.5  # by so much the targets of a moving-target loss grow or shrink; batches of fixed data stay within 1.2
DIVERGED = 2.0  # the loss stands at twice its best, and 8 noise widths above it
AT_CHANCE = 0.97  # a loss that ends above this share of the chance level has not learned (healthy runs: below 0.85)
_OF_GAMES = {"env", "environment", "action", "reward", "rew", "advantage", "adv", "return", "ret", "episode", "policy"}
TELLING_WORDS = 3  # of these in the names of a program that calls log_prob: it plays
CHANCE_STEPS = 50  # steps after which a loss at the chance level is no longer a run that has just begun
REGRESSIONS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")  # losses of numbers, as torch calls them
PARTS = 12  # equal parts of a run whose means tell where it rises; a part has at least 10 steps


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
        adversarial: losses that need not fall (a GAN, an actor and its critic, contrastive divergence).
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
        """True if the run surely fails at its job: flat, diverging, non-finite, or no better than chance at its end."""
        if self.adversarial:
            return self.verdict == "non-finite"
        if self.verdict == "too-short":
            return False
        no_better = self.steps >= FEWEST_STEPS and self.chance > 0 and self.end >= AT_CHANCE * self.chance
        return self.verdict != "learning" or no_better

    @property
    def level(self) -> float:
        """The loss of a model that has learned nothing: that of the start, or of chance where that is lower."""
        return self.level_from(self.start)

    def level_from(self, first: float) -> float:
        """The same, of a run whose first loss is told in another way."""
        return min(first, self.chance) if self.chance > 0 else first


def condition(record: Record, site: int | None = None) -> Condition:
    """The condition of one training loss.

    Args:
        site: backward site; None is the one with most steps.
    """
    return record.once(("condition", site), lambda: _condition(record, site))


def _condition(record: Record, site: int | None) -> Condition:
    curve = _without_what_has_just_begun(record, record.loss(site))
    values = curve.value
    finite = np.isfinite(values)
    adversarial = _adversarial(record) or _both_signs(record, values[finite])
    bad_step = _first_bad(curve)
    chance = chance_level(record) * loss_scale(record, curve)
    if finite.sum() < 2:
        verdict: Verdict = "non-finite" if bad_step is not None else "too-short"
        nan = math.nan
        return Condition(verdict, len(values), nan, nan, nan, nan, nan, bad_step, chance, adversarial)
    seen = values[finite]
    window = max(3, min(50, len(seen) // 10))
    smooth = Curve(curve.step[finite], seen).smoothed(window).value
    first = seen[: max(3, min(10, len(seen) // 10))]
    start = float(np.median(first))
    telling = len(seen)
    if np.mean(seen == 0) >= MOSTLY_ZERO:  # a hinge, one sample a step: the median is 0 whatever is learned
        telling = int(np.count_nonzero(seen)) or len(seen)
        first = seen[: max(10, len(seen) // 10)]
        start, smooth = float(np.mean(first)), _means(seen, len(first))
    end = float(smooth[-1])
    best = float(np.min(smooth[window - 1 :])) if len(smooth) >= window else float(np.min(smooth))
    noise = 1.48 * float(np.median(np.abs(seen - smooth)))
    fall = (start - end) / max(abs(start), 1e-12)
    if bad_step is not None:
        verdict = "non-finite"
    elif telling < FEWEST_STEPS:
        verdict = "too-short"
    elif end > best + 8 * noise + (DIVERGED - 1) * abs(best) and end > start:
        verdict = "diverging"
    elif _at_chance(record, seen, chance, start, best) or (fall < FLAT_FALL and not 0 <= end < CONVERGED * start):
        verdict = "flat" if record.finished or not _falls_through_noise(seen) else "too-short"
    else:
        verdict = "learning"
    return Condition(verdict, len(values), start, best, end, fall, noise, bad_step, chance, adversarial)


def _falls_through_noise(seen: Floats) -> bool:
    """Whether the second half of the losses lies below the first, though noise hides that at both ends."""
    first, second = (float(np.mean(half)) for half in np.array_split(seen, 2))
    return first - second > FLAT_FALL * abs(first)


def _without_what_has_just_begun(record: Record, curve: Curve) -> Curve:
    """While a program trains one model after another: only those that are done, if the present one has just begun.

    A new model's loss begins anew (boosting, ensembles, folds, a search). Its part counts as soon as it is as long as
    the longest before it.
    """
    changes = _changes(record)
    if record.finished or not len(changes):
        return curve
    lengths = np.diff([0, *changes, len(record.steps)])
    if lengths[-1] >= lengths[:-1].max():
        return curve
    done = curve.step < record.steps["step"][changes[-1]]
    return Curve(curve.step[done], curve.value[done])


def _changes(record: Record) -> Steps:
    """The places in `record.steps` at which another optimizer begins, if each has one stretch of steps; else none.

    So they follow one another, unlike the two of a GAN.
    """
    optimizer = record.steps["a"]
    changes = np.flatnonzero(np.diff(optimizer)) + 1
    return changes if len(changes) == len(np.unique(optimizer)) - 1 else changes[:0]


def phases(record: Record, curve: Curve) -> list[Curve]:
    """The parts of a loss in which one thing is trained: a new head, then all layers, each with its own optimizer.

    A new optimizer for the same parameters begins no phase; nor do optimizers that take turns.
    """
    changes = _changes(record)
    if not len(changes):
        return [curve]
    optimizer, step = record.steps["a"], record.steps["step"]
    held = {id: set(one.parameters) for id, one in record.optimizers.items()}
    begins = [
        int(step[place]) for place in changes if held.get(int(optimizer[place])) != held.get(int(optimizer[place - 1]))
    ]
    places = np.searchsorted(curve.step, begins)
    bounds = [0, *places.tolist(), len(curve)]
    return [Curve(curve.step[a:b], curve.value[a:b]) for a, b in zip(bounds, bounds[1:], strict=False) if b > a]


def _means(values: Floats, width: int) -> Floats:
    """Mean of the last `width` values at each place."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - width, 0)
    result: Floats = (sums[ends] - sums[begins]) / (ends - begins)
    return result


def _at_chance(record: Record, seen: Floats, chance: float, start: float, best: float) -> bool:
    """Whether a classifier still does no better than guessing, after steps enough to do so."""
    if not math.isfinite(chance) or chance <= 0 or len(seen) < CHANCE_STEPS or best < 0.9 * chance:
        return False
    loss = training_loss(record)
    if loss is None or loss.function == "mse_loss":
        return False  # the variance of a target may be told from few batches: no firm bound
    return float(np.mean(seen[-max(10, len(seen) // 10) :])) >= AT_CHANCE * chance and start >= 0.9 * chance


def loss_scale(record: Record, curve: Curve) -> float:
    """What the loss function's value is multiplied by before backward (1 / accumulation steps).

    Args:
        curve: of `record.loss`.

    Returns:
        1.0 where nothing was measured; NaN if the loss is not a fixed multiple of what the function gave.
    """
    loss = training_loss(record)
    if loss is None:
        return math.nan
    plain = record.training_losses(loss.id)
    given = curve.at(plain.step)
    known = np.isfinite(given) & np.isfinite(plain.value) & (np.abs(plain.value) > 1e-12)
    known &= np.isin(plain.step, curve.step)
    if not known.any():
        return 1.0
    ratio = given[known] / plain.value[known]
    middle = float(np.median(ratio))
    return middle if middle > 0 and float(np.median(np.abs(ratio - middle))) < 0.1 * middle else math.nan


@dataclass(frozen=True)
class Rise:
    """How far the loss rose above its best part.

    Args:
        step: where the best part ends.
        best: mean loss of that part.
        late: mean loss of the last quarter of the run, or of the last third of that where it is lower: a loss that has
            come down again, as where another model is trained after the first, did not rise for good.
        first: mean loss of the first part.
        widths: (late - best) in standard errors of the two means.
        early: True if the best part lies in the first two thirds of the run.
    """

    step: int
    best: float
    late: float
    first: float
    widths: float
    early: bool


def rise(curve: Curve) -> Rise | None:
    """Compare the best part of a run with its last quarter; None for fewer than 40 finite losses.

    Means, not medians: what a single-sample loss does shows only in the mean of many.
    """
    finite = np.isfinite(curve.value)
    value, step = curve.value[finite], curve.step[finite]
    count = min(PARTS, len(value) // 10)
    if count < 4:
        return None
    parts = np.array_split(value, count)
    with np.errstate(all="ignore"):
        mean = np.array([float(part.mean()) for part in parts])
        error = np.array([float(part.std(ddof=1)) / math.sqrt(len(part)) for part in parts])
    place, last = int(np.argmin(mean)), max(1, count // 4)
    late = min(float(mean[-last:].mean()), float(mean[-max(1, last // 3) :].mean()))
    width = math.hypot(float(error[-last:].mean()) / math.sqrt(last), float(error[place]))
    widths = (late - float(mean[place])) / width if width > 0 else 0.0
    end = int(step[sum(len(part) for part in parts[: place + 1]) - 1])
    return Rise(end, float(mean[place]), late, float(mean[0]), widths, place < count * 2 // 3)


def _first_bad(curve: Curve) -> int | None:
    """The first step whose loss is NaN or infinite and stays so, or is not one of a few that a scaler skipped."""
    bad = np.flatnonzero(~np.isfinite(curve.value))
    if len(bad) == 0:
        return None
    after = curve.value[bad[0] :]
    if len(after) > 10 and np.isfinite(after[-1]) and len(bad) < 0.05 * len(curve):
        return None
    return int(curve.step[bad[0]])


def _adversarial(record: Record) -> bool:
    """Losses that need not fall: players that take turns (a GAN), or targets that move with what is learned (RL)."""
    return _take_turns(record) or _moving_targets(record) or _plays(record)


def _both_signs(record: Record, values: Floats) -> bool:
    """A loss of the script's own that passes through 0: a difference (contrastive divergence) or a product (policy
    gradient), whose size is not how well the model does."""
    if len(values) < FEWEST_STEPS or training_loss(record) is not None:
        return False
    return min(float(np.mean(values < 0)), float(np.mean(values > 0))) >= BOTH_SIGNS


def _take_turns(record: Record) -> bool:
    """Two optimizers that step in turn, or two places of backward with an optimizer each, all along."""
    if len(record.optimizers) < 2:
        return False
    steps = record.steps
    sites = record.loss_sites()
    losses = [record.loss(site).step for site in sites[:2]]
    by_optimizer = [steps["step"][steps["a"] == id] for id in record.optimizers]
    by_optimizer.sort(key=len, reverse=True)
    return _interleaved(losses) or _interleaved(by_optimizer[:2])


def _interleaved(places: list[Steps]) -> bool:
    """Whether two sets of steps alternate; two phases of one program (train, then fine-tune) do not."""
    if len(places) < 2 or len(places[1]) <= max(TURNS * len(places[0]), 1):
        return False
    first, second = places
    return bool(first[0] < second[-1] and second[0] < first[-1])


def _plays(record: Record) -> bool:
    """Whether the program follows the gradient of a policy, as its names say: log_prob, and what games have.

    Its loss is no measure of how well it plays: the value loss grows with the returns that a better policy gets.
    """
    source = main_source(record)
    if source is None:
        return False
    words = {part.rstrip("s") for name in source.names() for part in name.lower().split("_")}
    return any(source.calls(["log_prob"])) and len(words & _OF_GAMES) >= TELLING_WORDS


def _moving_targets(record: Record) -> bool:
    """Targets of a regression whose size drifts: bootstrapped ones (Q-learning, an actor and its critic)."""
    loss = training_loss(record)
    if loss is None:
        return False
    target = record.series("target", str(loss.id))
    real = target.b == 0
    size = target.rms[real]
    third = len(size) // 3
    if third < 7:
        return False
    early, late = float(np.median(size[:third])), float(np.median(size[-third:]))
    return early > 0 and late > 0 and max(early / late, late / early) > DRIFT


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
    """The loss of a model that has learned only the mean: ln C, ln 2, or the variance of the target; else NaN."""
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
            weight, mean, square = target.count, target.mean, target.rms**2
            whole = float(np.average(square, weights=weight) - np.average(mean, weights=weight) ** 2)
            return whole if whole > 0 else math.nan
    return math.nan
