"""Columns of statistics: one block of 64 series over all steps, read once and then only added to."""

from __future__ import annotations

import os
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from wellfit.probe import frames
from wellfit.record.segment import Segment

CACHE_BYTES = 256 * 1024 * 1024


class Column:
    """One block of one schema: the numbers of up to 64 series at each sampled step."""

    def __init__(self, schema: int, series: int, block: int) -> None:
        self._schema = schema
        self._series = series  # of the schema: frames with another number of series are not read
        self._block = block
        self._members = frames.block_place(series, block)[2]
        self._size = 0
        self._step = np.empty(0, np.int64)
        self._data = np.empty((0, self._members, frames.FIELDS), np.float32)
        self._segment = 0
        self._position = 0

    @property
    def nbytes(self) -> int:
        return self._data.nbytes + self._step.nbytes

    def extend(self, segments: list[Segment]) -> None:
        """Read the frames that came since last time."""
        while self._segment < len(segments):
            segment = segments[self._segment]
            places = segment.places.get(self._schema, [])
            if self._position < len(places):
                self._read(segment)
                self._position = len(places)
            if self._segment == len(segments) - 1:
                return
            # Segments before the last are closed: all of their frames were indexed before the next came into the list.
            self._segment += 1
            self._position = 0

    def _read(self, segment: Segment) -> None:
        fd = segment.open()
        if fd is None:
            return  # gone or being thinned: the next refresh finds out
        steps: list[int] = []
        parts: list[bytes] = []
        try:
            for place in segment.places[self._schema][self._position :]:
                if place.series == self._series:
                    data = segment.read_block(fd, place, self._block)
                    if data is not None:
                        steps.append(place.step)
                        parts.append(data)
        except OSError as error:
            segment.trouble = error.strerror or str(error)
        finally:
            os.close(fd)
        if parts:
            numbers = np.frombuffer(b"".join(parts), "<f4").reshape(len(parts), -1)
            self._append(steps, numbers[:, :-1].reshape(len(parts), self._members, frames.FIELDS))

    def _append(self, steps: list[int], data: NDArray[np.float32]) -> None:
        size = self._size + len(steps)
        if size > len(self._step):
            # Series handed out are views of the old arrays, whose rows never change.
            room = max(size, 2 * self._size if self._size else size)
            self._step = np.concatenate([self._step[: self._size], np.empty(room - self._size, np.int64)])
            fresh = np.empty((room, self._members, frames.FIELDS), np.float32)
            fresh[: self._size] = self._data[: self._size]
            self._data = fresh
        self._step[self._size : size] = steps
        self._data[self._size : size] = data
        self._size = size

    def series(self, member: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps (n,) and numbers (n, 8) of one series of the block, read only."""
        step, data = self._step[: self._size], self._data[: self._size, member]
        step.flags.writeable = False
        data.flags.writeable = False
        return step, data


class Columns:
    """The columns of a record that were read lately."""

    def __init__(self, segments: list[Segment]) -> None:
        self._segments = segments
        self._kept: OrderedDict[tuple[int, int, int], Column] = OrderedDict()

    def clear(self) -> None:
        """Forget all: a segment was replaced or a schema changed its meaning."""
        self._kept.clear()

    def series(self, schema: int, series: int, position: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Steps and numbers of the series at `position` of a schema of `series` series."""
        block, member = divmod(position, frames.BLOCK_SERIES)
        key = (schema, series, block)
        column = self._kept.get(key)
        if column is None:
            column = self._kept[key] = Column(schema, series, block)
        self._kept.move_to_end(key)
        column.extend(self._segments)
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return column.series(member)
