"""Batch norm as it was met in training: its layers, and how evaluation fares beside training."""

from __future__ import annotations

import math

import numpy as np

from wellfit.condition import loss_scale, training_loss
from wellfit.record import Layer, Record, Series
from wellfit.rules.labels import evaluated_alike


def batch_norms(record: Record) -> list[tuple[Layer, Series]]:
    """The batch norms that were in train mode in training steps, in the order of their calls, and their series."""
    layers = record.layers
    found = []
    for name in record.subjects("norm"):
        layer = layers.get(name)
        series = record.series("norm", name)
        if layer is not None and "BatchNorm" in layer.class_name and len(series):
            found.append((layer, series))
    return sorted(found, key=lambda pair: pair[0].order)


def evaluation_over_training(record: Record) -> float:
    """The median over the last three evaluations in eval mode of their loss over the training loss just before.

    NaN where the same function was not used in both, or too little was seen.
    """
    loss = training_loss(record)
    curve = record.loss()
    scale = loss_scale(record, curve)
    if loss is None or loss.reduction != "mean" or not math.isfinite(scale):
        return math.nan
    ratios = []
    for other in evaluated_alike(record, loss)[:1]:
        passes = record.evaluations(other.id)
        quiet = ~record.evaluation_modes(other.id) & np.isfinite(passes.value)
        for step, value in zip(passes.step[quiet][-3:], passes.value[quiet][-3:], strict=True):
            before = curve.value[(curve.step < step) & np.isfinite(curve.value)]
            near = before[-max(5, len(before) // 10) :] / scale
            if len(near) >= 5 and np.mean(near) > 0:
                ratios.append(float(value) / float(np.mean(near)))
    return float(np.median(ratios)) if ratios else math.nan
