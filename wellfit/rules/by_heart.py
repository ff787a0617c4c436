"""Whether a run under `one-batch` learned its batch by heart, and if not, whether it was going to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wellfit.condition import Condition, classes, condition, training_loss
from wellfit.record import Record
from wellfit.record.curves import Floats
from wellfit.rules.ratios import path_length, update_ratios

Outcome = Literal["learned", "rests", "unclear"]

UNLEARNED = 0.5  # of the level of a model that knows nothing: healthy runs end below 0.2
REST = 0.1  # share of the fall that came in the last third of the run; 0.33 is a straight line
STEPS = 150  # fewer say nothing
PATH = 0.5  # way of the weights, in their own size, from which on a batch should be known; examples go 1 and more
KNOWN = 0.3  # a loss that begins below this share of chance is that of a model which was trained before
NUMBERS = 2.0  # parameters for each number that is to be learned by heart


@dataclass(frozen=True)
class ByHeart:
    """What came of it.

    Args:
        outcome: "learned"; "rests": the loss has come to rest high; "unclear": neither can be said.
        state: of the loss.
        share: loss at the end over that of a model that has learned nothing; NaN where that is not known.
        sure: the loss is one that PyTorch names, so that its floor is known to be 0.
    """

    outcome: Outcome
    state: Condition
    share: float
    sure: bool


def by_heart(trial: Record) -> ByHeart:
    """Judge a run that was made under `one-batch`."""
    state = condition(trial)
    level = state.level
    share = state.end / level if level > 0 else math.nan
    sure = training_loss(trial) is not None and state.chance > 0
    if state.adversarial or state.verdict in ("non-finite", "too-short") or not level > 0:
        return ByHeart("unclear", state, share, sure)
    if state.best <= UNLEARNED * level:
        return ByHeart("learned", state, share, sure)
    known = state.chance > 0 and state.start < KNOWN * state.chance
    value = trial.loss().value
    path = path_length(update_ratios(trial), trial.step_count)
    unclear = (
        known
        or state.verdict == "diverging"
        or state.steps < STEPS
        or not path >= PATH
        or not came_to_rest(value[np.isfinite(value)])
        or _has_floor(trial)
        or _is_too_much(trial)
        or _rate_rises(trial)
    )
    return ByHeart("unclear" if unclear else "rests", state, share, sure)


def came_to_rest(value: Floats) -> bool:
    """Whether hardly a part of the whole fall came in the last third.

    Args:
        value: finite losses; at least 30 of them.
    """
    if len(value) < 30:
        return False
    tenth = len(value) // 10
    start, end = float(np.mean(value[: max(1, tenth // 3)])), float(np.mean(value[-tenth:]))
    before = len(value) * 2 // 3
    middle = float(np.mean(value[before - tenth : before]))
    return start <= end or middle - end < REST * (start - end)


def _has_floor(trial: Record) -> bool:
    """Whether the loss cannot come near 0 whatever is learned: soft or smoothed targets."""
    loss = training_loss(trial)
    if loss is None:
        return False
    if loss.function == "cross_entropy" and (
        loss.attributes.get("label_smoothing") or "float" in loss.target_dtype or "half" in loss.target_dtype
    ):
        return True
    if loss.function in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        target = trial.series("target", str(loss.id))
        # Of zeros and ones the mean square is the mean.
        return not len(target) or bool(np.any(np.abs(target.rms**2 - target.mean) > 1e-3 * target.mean))
    return False


def _is_too_much(trial: Record) -> bool:
    """Whether the batch holds more than so many parameters can hold."""
    loss = training_loss(trial)
    if loss is None or not loss.target_shape:
        return False
    count = classes(trial)
    numbers = math.prod(loss.target_shape) * ((count or 1) if count is None or count < 100 else 1)
    trained = sum(one.size for one in trial.parameters.values() if one.requires_grad and one.optimizer is not None)
    return trained < NUMBERS * math.prod(loss.target_shape) or (count is not None and trained < numbers)


def _rate_rises(trial: Record) -> bool:
    """Whether a warm-up is not over."""
    rate = trial.hyper()
    if len(rate) < 2 or not trial.step_count:
        return False
    last = trial.step_count - 1
    middle, end = rate.at([last * 2 // 3, last])
    return bool(end > 1.1 * middle)
