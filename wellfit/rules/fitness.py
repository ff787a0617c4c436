"""How well a run has fitted its data: what decides between an error and a note for illnesses of the set-up."""

from __future__ import annotations

import math

import numpy as np

from wellfit.condition import Condition
from wellfit.record import Record


def fits_poorly(state: Condition, share: float) -> bool:
    """True if the loss is flat, diverging or not finite, or ended above `share` of where it began or of chance.

    Args:
        state: of the training loss.
        share: of the lower one of the first loss and the level of chance.
    """
    if state.adversarial and state.verdict != "non-finite":
        return False
    if state.verdict in ("flat", "diverging", "non-finite"):
        return True
    if state.verdict == "too-short" or not math.isfinite(state.start) or state.start <= 0:
        return False
    return state.end > share * state.level


def first_loss(record: Record, loss: int) -> float:
    """What a loss function gave at step 0; NaN if it was not seen there."""
    curve = record.training_losses(loss)
    return float(curve.value[0]) if len(curve) and curve.step[0] == 0 else math.nan


def ends_far_above(record: Record, state: Condition) -> bool:
    """Whether a run that is too short to be judged ends with five losses that are all over twice that of its start.

    All of them, not their median: with one sample a step, two of five are that large by chance.
    """
    last = record.loss().value[-5:]
    short = state.verdict == "too-short" and len(last) == 5 and state.start > 0
    return short and bool(np.all(last > 2 * state.start))


def settled(record: Record, steps: int) -> bool:
    """Whether a verdict that rests on how the run fares can no longer change soon: it ended, or has so many steps."""
    return record.finished or record.step_count >= steps
