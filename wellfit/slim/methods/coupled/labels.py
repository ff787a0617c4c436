"""Labels of indices: indices with the same label are there together or gone together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Label = NDArray[np.int64]

FIXED = 0
"""The label of what is never cut: batch, place, time."""


class Labels:
    """A union-find over labels, each of which may be frozen, for a reason.

    Labels are whole numbers; an axis of n indices has an array of n of them.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, dtype=np.int64)
        self._why = np.ones(1, dtype=np.int64)  # place of the reason; 0 for a label that is free
        self._reasons = ["", "it belongs to the input"]
        self._stretched = np.zeros(1, dtype=np.bool_)

    def fresh(self, count: int, *, stretched: bool = False) -> Label:
        """New labels, each free and alone.

        Args:
            count: how many.
            stretched: of an axis that holds the same thing over and over: fixed as soon as it is not alone in its axis.
        """
        start = len(self._parent)
        self._stretched = np.concatenate([self._stretched, np.full(count, stretched)])
        made = np.arange(start, start + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, made])
        self._why = np.concatenate([self._why, np.zeros(count, dtype=np.int64)])
        return made

    @staticmethod
    def fixed(count: int) -> Label:
        """The labels of an axis that is never cut."""
        return np.zeros(count, dtype=np.int64)

    def roots(self, labels: Label) -> Label:
        """One label for all that hang together, same shape."""
        found = self._parent[labels]
        while True:
            further = self._parent[found]
            if np.array_equal(further, found):
                return found
            found = further

    def is_free(self, labels: Label) -> NDArray[np.bool_]:
        """Which of them are not frozen, same shape."""
        free: NDArray[np.bool_] = self._why[self.roots(labels)] == 0
        return free

    def is_stretched(self, labels: Label) -> NDArray[np.bool_]:
        """Which of them still belong to nothing but a stretched axis, same shape."""
        stretched: NDArray[np.bool_] = self._stretched[self.roots(labels)]
        return stretched

    def why(self, label: int) -> str:
        """Why a label is frozen; empty if it is free."""
        return self._reasons[int(self._why[self._root(label)])]

    def unite(self, one: Label, other: Label, reason: str) -> None:
        """Indices of two axes belong together, pair by pair; what meets a fixed index is frozen for the reason."""
        left, right = self.roots(one), self.roots(other)
        for fixed, free in ((left, right), (right, left)):
            self.freeze(free[fixed == FIXED], reason)
        pairs = (left != right) & (left != FIXED) & (right != FIXED)
        if not pairs.any():
            return
        for a, b in np.unique(np.stack([left[pairs], right[pairs]], axis=1), axis=0):
            self._join(int(a), int(b))

    def merge(self, labels: Label, reason: str) -> None:
        """All of them belong together."""
        if labels.size > 1:
            flat = labels.reshape(-1)
            self.unite(flat[:-1], flat[1:], reason)

    def freeze(self, labels: Label, reason: str) -> None:
        """They stay, for this reason (the first one counts)."""
        roots = np.unique(self.roots(labels))
        free = roots[self._why[roots] == 0]
        if free.size:
            self._why[free] = self._number(reason)

    def _number(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason)

    def _join(self, one: int, other: int) -> None:
        first, second = sorted((self._root(one), self._root(other)))
        if first != second:
            self._parent[second] = first
            self._why[first] = self._why[first] or self._why[second]
            self._stretched[first] = self._stretched[first] and self._stretched[second]

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = int(self._parent[label])
        return label


class Splits(Protocol):
    """What decides which axis has the labels, where there is a choice."""

    labels: Labels
    inner: bool

    @property
    def passed(self) -> int:
        """How many of the axes are out of the question."""

    def note_split(self, axis: Label) -> None:
        """There was a choice, and this axis was chosen."""


def viewed(splits: Splits, axes: Sequence[Label], shape: Sequence[int]) -> list[Label]:
    """The axes of a tensor that is seen in another shape (row-major), as by `view`.

    An axis that is split keeps its labels where they vary along one of the new axes only. Where they vary along
    several, as in a split into heads x width, all that lies at one index of the first of them belongs together from
    then on (`inner`: of the last).
    """
    made: list[Label] = []
    for old, new in _blocks([len(axis) for axis in axes], shape):
        made += _block(splits, [axes[i] for i in old], [shape[i] for i in new])
    return made


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes that hold the same elements in both shapes, as short as can be."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        old, new, left, right = [], [], 1, 1
        if i < len(before) and j < len(after):
            old, new, left, right = [i], [j], before[i], after[j]
            i, j = i + 1, j + 1
        while left != right or not (old or new):
            if (left <= right and i < len(before)) or j >= len(after):
                old, left, i = [*old, i], left * before[i], i + 1
            else:
                new, right, j = [*new, j], right * after[j], j + 1
        blocks.append((old, new))
    return blocks


def _block(splits: Splits, axes: list[Label], shape: list[int]) -> list[Label]:
    labels = splits.labels
    fixed = [labels.fixed(size) for size in shape]
    live = [place for place, axis in enumerate(axes) if labels.is_free(axis).any()]
    if len(live) > 1:
        stretched = [place for place in live if labels.is_stretched(axes[place]).all()]
        for place in stretched:
            labels.freeze(axes[place], "it is stretched to a size that the model's code fixes")
        live = [place for place in live if place not in stretched]
    if not live:
        return fixed
    if len(live) > 1:
        for place in live:
            labels.freeze(axes[place], "a change of shape mixes it with another axis")
        return fixed
    place = live[0]
    spread = axes[place].reshape([-1 if i == place else 1 for i in range(len(axes))])
    elements = np.broadcast_to(spread, [len(axis) for axis in axes]).reshape(shape)
    roots = labels.roots(elements)
    varying = [i for i in range(len(shape)) if (roots != np.take(roots, [0], axis=i)).any()]
    if not varying:
        labels.freeze(axes[place], "a change of shape leaves nothing of it")
        return fixed
    order = varying[::-1] if splits.inner else varying
    kept = order[min(splits.passed, len(order) - 1)]
    slabs = np.moveaxis(elements, kept, 0).reshape(shape[kept], -1)
    fixed[kept] = slabs[:, 0].copy()
    if len(varying) > 1:
        for slab in slabs:
            labels.merge(slab, "a change of shape joins it with what is not cut")
        splits.note_split(fixed[kept])
    return fixed
