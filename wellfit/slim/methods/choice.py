"""Which channels are kept, given how much each matters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes.change import Change
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import compare
from wellfit.slim.methods.checked import copy_of

SCOPES = ("global", "layer")
_FASTER = 1.02  # less than that is noise


def choose(
    scores: Mapping[str, NDArray[np.float64]],
    share: float,
    *,
    scope: str = "global",
    multiple: int = 1,
    least: int = 1,
) -> dict[str, tuple[int, ...]]:
    """By group the channels that are kept, rising, where the least important ones go.

    Args:
        scores: by group, one for each channel.
        share: of the channels to cut; in 0..1.
        scope: "layer": this share of each group; "global": of all together, each score relative to its group's mean, so
            that groups of large weights are not all spared.
        multiple: so many, or a multiple, are kept of each group, rounded up; a group that has fewer stays whole.
        least: how many are kept of each group at any rate.

    Raises:
        WellfitError: an argument is out of range.
    """
    if not 0 <= share <= 1 or scope not in SCOPES or multiple < 1 or least < 1:
        raise WellfitError(
            f"share={share}, scope={scope}, multiple={multiple}, least={least}: a share in 0..1, a scope of "
            f"{' or '.join(SCOPES)}, and whole numbers from 1 were expected"
        )
    if not scores:
        return {}
    relative = {name: values / max(float(values.mean()), 1e-300) for name, values in scores.items()}
    together = np.sort(np.concatenate(list(relative.values())))
    gone = int(share * len(together))
    limit = together[gone] if gone < len(together) else np.inf
    kept = {}
    for name, values in relative.items():
        count = len(values) - int(share * len(values)) if scope == "layer" else int((values >= limit).sum())
        count = -(-max(count, least) // multiple) * multiple
        order = np.argsort(-values, kind="stable")[: min(count, len(values))]
        kept[name] = tuple(int(channel) for channel in np.sort(order))
    return kept


def is_faster(model: nn.Module, change: Change, other: Change, inputs: Inputs, *, seconds: float = 1.0) -> bool:
    """Whether a model under one change is measurably faster than under another, as with 56 channels instead of 53.

    Args:
        model: is not changed.
        change: the first.
        other: the second.
        inputs: one batch of the size that counts.
        seconds: how long to measure.

    Raises:
        Unfit: a change cannot be made.
    """
    one, two = copy_of(model), copy_of(model)
    change.apply(one)
    other.apply(two)
    return compare(two, one, inputs, seconds=seconds).speedup >= _FASTER
