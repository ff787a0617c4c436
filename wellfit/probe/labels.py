"""Class labels as the loss is given them: how often each class came, in a batch and in all batches looked at."""

from __future__ import annotations

import math
from collections import Counter

import torch

from wellfit.probe.statistics import Row

CLASSES = 1024  # of more (words of a vocabulary) no frequencies are kept
LABELS = 1024  # of a batch that are looked at

_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
_BY_CLASS = {"cross_entropy", "nll_loss", "multi_margin_loss"}
_BY_ANSWER = {"binary_cross_entropy", "binary_cross_entropy_with_logits", "hinge_embedding_loss", "soft_margin_loss"}
_IGNORED = -100  # torch's default of `ignore_index`


class Labels:
    """Frequencies of the classes in the targets of each loss.

    The pool is that of the watched batches: enough to know how frequent a class is, and whether batches are alike.
    """

    def __init__(self) -> None:
        self._pools: dict[int, Counter[int]] = {}

    def row(self, loss: int, function: str, target: torch.Tensor, ignored: object) -> Row | None:
        """The `labels` statistics of docs/record.md; None if the target is no class labels.

        Args:
            loss: its id.
            function: name of the loss function.
            target: on the CPU; what the function was given.
            ignored: value of `ignore_index`, if it was given.
        """
        labels = _labels(function, target)
        if labels is None:
            return None
        batch = Counter(labels.tolist())
        count = batch.total()
        left_out = batch.pop(ignored if isinstance(ignored, int) else _IGNORED, 0)
        if not batch or min(batch) < 0 or max(batch) >= CLASSES:
            return None
        pool = self._pools.setdefault(loss, Counter())
        pool.update(batch)
        whole = pool.total()
        return (
            float(count), _entropy(batch), _entropy(pool), max(pool.values()) / whole, min(pool.values()) / whole,
            float(len(pool)), left_out / count, max(batch.values()) / batch.total(),
        )  # fmt: skip


def _labels(function: str, target: torch.Tensor) -> torch.Tensor | None:
    """Class numbers, at most `LABELS` of them."""
    if function in _BY_CLASS:
        if target.dtype in _INTEGERS:
            return target.reshape(-1)[:LABELS].to(torch.int64)
        if target.dim() >= 2 and target.is_floating_point():
            rows = target.movedim(1, -1).reshape(-1, target.shape[1])[:LABELS]
            # Probabilities that are all 0 or 1 are classes; soft ones are not.
            return rows.argmax(1) if bool(((rows == 0) | (rows == 1)).all()) else None
        return None
    if function in _BY_ANSWER and (target.dim() <= 1 or target.shape[1:].numel() == 1):
        answers = target.reshape(-1)[:LABELS]
        if bool(((answers == 0) | (answers == 1) | (answers == -1)).all()):
            return (answers > 0).to(torch.int64)
    return None


def _entropy(counts: Counter[int]) -> float:
    """Of class frequencies, in nats."""
    whole = counts.total()
    return -sum(count / whole * math.log(count / whole) for count in counts.values())
