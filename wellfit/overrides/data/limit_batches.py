"""Shorter epochs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.data._loaders import FOR_TESTS, loader_trains, which
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import whole
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from wellfit.overrides.program import Program


class _First(Iterator[Any]):
    """The first items of an iterator.

    Args:
        most: how many.
    """

    def __init__(self, items: Iterator[Any], most: int) -> None:
        self._items, self._most = items, most
        self._first = itertools.islice(items, most)

    def __next__(self) -> Any:
        return next(self._first)

    def __len__(self) -> int:
        return min(self._most, len(self._items))  # type: ignore[arg-type]


@dataclass(kw_only=True, eq=False)
class LimitBatches(Override):
    """Shorter epochs.

    What it changes: an epoch of a DataLoader for training ends after N batches, and `len` of it says so. Each epoch
    begins anew, so that loaders that shuffle still show all their data in the course of time.

    When it helps: to have the script's evaluation sooner, and to see in a short time whether the whole loop works.

    Safety: not safe; the model sees less data.

    Where it does not apply: to batches that the script cuts itself; unless `loaders:all` is given, to loaders that do
    not shuffle: those are mostly for tests.

    References: `limit_train_batches` of PyTorch Lightning's Trainer.
    """

    name = "limit-batches"
    summary = "end each epoch of a DataLoader after so many batches"
    example = "limit-batches=20"
    safe = False
    misfit = "no DataLoader of the script gives more batches to the training; batches that it cuts itself stay"
    rank = 40

    most: int = whole("batches in an epoch")
    loaders: str = which()

    _length: Callable[[Any], int] = field(default=len, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from torch.utils.data import DataLoader

        def with_length(original: Any) -> Any:
            def __len__(loader: Any) -> int:
                length = int(original(loader))
                return min(length, self.most) if self._means(loader) else length

            return __len__

        self._length = DataLoader.__len__
        program.patch(DataLoader, "__len__", with_length)

    def batches(self, program: Program, loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """See `Override`."""
        if not self._means(loader):
            self.left_out(f"DataLoader{here_text()}", FOR_TESTS)
            return batches
        try:
            length = self._length(loader)
        except TypeError:  # a stream
            length = None
        if length is not None and length <= self.most:
            self.met(f"DataLoader{here_text()}", f"it has only {length} batches")
            return batches
        self.changed(f"DataLoader{here_text()}: an epoch ends after {self.most} of {length or 'its'} batches")
        return _First(batches, self.most)

    def _means(self, loader: Any) -> bool:
        return self.loaders == "all" or loader_trains(loader)
