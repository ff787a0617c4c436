"""Class labels that a loss is given one a sample, and how well the loss does beside knowing their frequencies only."""

from __future__ import annotations

import math

import numpy as np

from wellfit.condition import condition, loss_scale, training_loss
from wellfit.record import Loss, Record, Series
from wellfit.rules.fitness import fits_poorly

_BY_CLASS = ("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits")


def labelled(record: Record) -> list[tuple[Loss, Series]]:
    """The losses of training with one class label a sample (no texts, no segmented images), and their labels."""
    found = []
    for loss in record.losses.values():
        series = record.series("labels", str(loss.id))
        if loss.training and loss.function in _BY_CLASS and len(series) and _one_a_sample(record, loss):
            found.append((loss, series))
    return found


def _one_a_sample(record: Record, loss: Loss) -> bool:
    """Whether there are as many labels as samples in the input of a model."""
    shape = loss.target_shape or ()
    if not shape or (len(shape) > 1 and shape != loss.prediction_shape and math.prod(shape[1:]) != 1):
        return False
    if len(shape) > 2:
        return False
    inputs = [layer.input_shape for layer in record.layers.values() if layer.is_root and layer.input_shape]
    return any(shape[0] in given[:2] for given in inputs)


def batch_size(labels: Series) -> float:
    """Labels in a batch, without those that are ignored: the median."""
    return float(np.median(labels["count"] * (1 - labels["ignored"])))


def least_entropy(labels: Series) -> float:
    """The entropy in nats that batches have at least, on average, if they are drawn at random from all labels seen.

    -ln(1/n + (1 - 1/n) s) for n labels, where s is the largest sum of squared shares that a most frequent class of
    share m leaves room for. Jensen's inequality for Renyi's entropy of order 2, which is no larger than Shannon's; two
    classes, of which the first is seen more as the first steps are watched more closely, need the sharp bound of s.
    """
    size, most = batch_size(labels), float(labels["most"][-1])
    squares = most * most + (1 - most) * min(most, 1 - most)
    return -math.log(1 / size + (1 - 1 / size) * squares) if size > 0 else 0.0


def is_weighted(loss: Loss) -> bool:
    """Whether classes are given weights, so that the loss is no plain mean over samples."""
    return bool(loss.attributes.get("weight")) or bool(loss.attributes.get("pos_weight"))


def late_loss(record: Record, loss: Loss) -> float:
    """The mean of the last third of the training losses as the loss function gave them.

    A mean, not a median: of a loss that is small but for the steps at which it is huge, these are what counts. NaN
    where it cannot be told: sums over samples, weights of classes, other terms in the loss.
    """
    if loss.reduction != "mean" or is_weighted(loss) or not math.isfinite(training_scale(record)):
        return math.nan
    curve = record.loss()
    value = curve.value[np.isfinite(curve.value)]
    late = value[-max(len(value) // 3, 1) :]
    return float(np.mean(late)) / training_scale(record) if len(late) else math.nan


def evaluated_alike(record: Record, loss: Loss) -> list[Loss]:
    """The losses of evaluations by the same function, averaged over samples; the one with most passes first."""
    losses = [record.losses.get(id) for id in record.evaluated_losses()]
    return [one for one in losses if one is not None and (one.function, one.reduction) == (loss.function, "mean")]


def last_evaluation(record: Record, loss: Loss) -> float:
    """The mean loss of the last evaluation by the same function; NaN where there was none."""
    curves = [record.evaluations(other.id) for other in evaluated_alike(record, loss)[:1]]
    return float(curves[0].value[-1]) if curves and len(curves[0]) else math.nan


def worst_loss(record: Record, loss: Loss) -> float:
    """The larger one of the late training loss and the last evaluation; NaN where neither is known."""
    known = [value for value in (late_loss(record, loss), last_evaluation(record, loss)) if math.isfinite(value)]
    return max(known, default=math.nan)


def knows_little(record: Record, loss: Loss, entropy: float, share: float) -> bool:
    """Whether a run ends above `share` of the loss that knowing how frequent the classes are gives, or fails anyway.

    Args:
        entropy: of the labels, in nats: that loss.
    """
    state = condition(record)
    if state.adversarial and state.verdict != "non-finite":
        return False
    return fits_poorly(state, 1.0) or worst_loss(record, loss) > share * entropy


def learns_little(record: Record, share: float) -> bool:
    """Whether more than `share` of the loss is left, in training and, where there is one, in the last evaluation.

    Evaluation shows what a model knows that dropout or noise hides in training.
    """
    state, loss = condition(record), training_loss(record)
    evaluated = last_evaluation(record, loss) if loss is not None else math.nan
    return not evaluated <= share * state.level and fits_poorly(state, share)


def training_scale(record: Record) -> float:
    """What the loss function's value is multiplied by before backward; NaN if that is not fixed."""
    return loss_scale(record, record.loss())
