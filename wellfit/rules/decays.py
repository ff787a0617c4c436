"""Weight decay as optimizers apply it."""

from __future__ import annotations

import numpy as np

from wellfit.record import Optimizer, Record

# Optimizers that add the decay to the gradient; all others take it from the weights directly, as AdamW does.
_COUPLED = {"SGD", "ASGD", "Adam", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta"}


def is_coupled(optimizer: Optimizer) -> bool:
    """Whether the decay is a part of the gradient, and not taken from the weights themselves."""
    decoupled = any(group.get("decoupled_weight_decay") for group in optimizer.groups)
    return optimizer.class_name in _COUPLED and not decoupled


def largest_decay(record: Record, optimizer: Optimizer) -> float:
    """The largest weight decay that a group had at any time; which group holds which parameter is not recorded."""
    rates = [record.hyper("weight_decay", optimizer.id, group) for group in range(len(optimizer.groups))]
    return max((float(np.nanmax(rate.value)) for rate in rates if len(rate)), default=0.0)
