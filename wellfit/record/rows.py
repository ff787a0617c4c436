"""The rows of a record, kept apart by type while they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.probe import frames

ROW = np.dtype([("type", "u1"), ("a", "u1"), ("b", "<u2"), ("step", "<u4"), ("x", "<f8"), ("y", "<f8")])
Rows = NDArray[Any]
assert ROW.itemsize == frames.ROW.size


class RowTable:
    """All rows of one record; `of` gives those of one type in the order they were written."""

    def __init__(self) -> None:
        self._chunks: dict[int, list[Rows]] = {}
        self.odd = 0  # frames that were not a whole number of rows

    def add(self, payload: bytes) -> None:
        """Take the payload of one rows frame."""
        whole = len(payload) - len(payload) % ROW.itemsize
        self.odd += whole != len(payload)
        rows = np.frombuffer(payload[:whole], dtype=ROW)
        for type in np.unique(rows["type"]):
            self._chunks.setdefault(int(type), []).append(rows[rows["type"] == type])

    def of(self, type: int) -> Rows:
        """A structured array (`a`, `b`, `step`, `x`, `y`); empty if there are none."""
        chunks = self._chunks.get(type)
        if not chunks:
            return np.empty(0, dtype=ROW)
        if len(chunks) > 1:
            chunks[:] = [np.concatenate(chunks)]
        return chunks[0]

    def count(self, type: int) -> int:
        return sum(len(chunk) for chunk in self._chunks.get(type, ()))
