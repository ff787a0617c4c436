"""The first batch of each DataLoader, and which loader a batch is the first of where loaders are made anew."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch

from wellfit.overrides.nested import mapped, reals_in


@dataclass
class _First:
    """A first batch.

    Attributes:
        line: where its loader was made.
        structure: what it is made of.
        widths: the shapes of the items' floating-point tensors.
        loader: the one that it came from, or the last that went on with it; nothing of it is kept alive.
    """

    line: str
    structure: Any
    widths: set[tuple[int, ...]]
    loader: weakref.ref[Any]
    batch: Any


class FirstBatches:
    """The first batch of each loader.

    A loader that is made by the same line when the one before is gone, and gives items of the same shape, is taken for
    the same one: many scripts make theirs anew in each epoch, with a dataset of its own. Two that are there at once are
    two, wherever they are made.
    """

    def __init__(self) -> None:
        self._known: list[_First] = []

    def of(self, loader: Any, line: str, batch: Any) -> tuple[Any, bool]:
        """The first batch of a loader, and whether it is this one.

        Args:
            line: where the loader was made.
            batch: what it gives now.
        """
        structure = _structure(batch)
        alike = [first for first in self._known if (first.line, first.structure) == (line, structure)]
        for first in alike:
            if first.loader() is loader:
                return first.batch, False
        widths = {tuple(tensor.shape[1:]) for tensor in reals_in(batch)}
        for first in alike:
            if first.loader() is None and first.widths == widths:
                first.loader = weakref.ref(loader)
                return first.batch, False
        kept = mapped(batch, torch.clone)
        self._known.append(_First(line, structure, widths, weakref.ref(loader), kept))
        return kept, True


def _structure(batch: Any) -> Any:
    """What a batch is made of: containers, types, numbers of axes. How long they are changes from batch to batch."""
    if isinstance(batch, torch.Tensor):
        return batch.dtype, batch.dim()
    if isinstance(batch, dict):
        return frozenset((key, _structure(item)) for key, item in batch.items())
    if isinstance(batch, (tuple, list)):
        return type(batch).__name__, *dict.fromkeys(_structure(item) for item in batch)
    return type(batch).__name__
