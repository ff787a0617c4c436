"""The writer of the record: one process, append only, quiet for good at the first error. Standard library only."""

from __future__ import annotations

import json
import os
from array import array
from itertools import chain
from typing import Any

from wellfit.probe import frames

STEPS_AT_RISK = 64  # at kill -9 at most so many steps are lost
SECONDS_AT_RISK = 1.0
BUFFER_BYTES = 1024 * 1024  # flushed earlier when more than this is waiting, whatever the steps
SEGMENT_BYTES = 16 * 1024 * 1024
MANY_SCHEMAS = 24  # when layers come and go, one schema for each set of series would soon outweigh the numbers

_pack_row = frames.ROW.pack


class Writer:
    """Writes what one process of a run saw.

    Nothing here raises into the training: the first OSError makes the writer quiet for good and `broken` says why.
    After a fork the child makes a writer of its own; this one does nothing there.

    Args:
        folder: absolute path of the run's folder; it must exist by the first flush.
        rank: rank of the process, 0 if alone.
        pid: process id, for the name of the files.
        quota: bytes on disk above which statistics are no longer written (rows and declarations: twice that).
        segment_bytes: a new file is begun when one would grow over this.
    """

    def __init__(self, folder: str, rank: int, pid: int, quota: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.broken: str | None = None
        self.written = 0  # bytes on disk: what was written less what thinning gave back
        self.dropped = 0  # declarations and statistics that could not be encoded
        self._folder = folder
        self._prefix = f"r{rank}-{pid}-"
        self._owner = os.getpid()
        self._quota = max(int(quota), 1)
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._next_segment = 0
        self._segment_size = 0
        self._paths: list[str] = []
        # These stay the same objects for ever, so that a row of another thread is never lost or doubled.
        self.waiting: list[tuple[Any, ...]] = []  # rows still to be packed: in one go, as the training waits for it
        self._rows = bytearray()
        self._frames = bytearray()
        self._series: dict[tuple[str, str], int] = {}
        self._schemas: dict[tuple[int, ...], int] = {}
        self._schema_frames: list[bytes] = []
        self._repeat_schemas = False
        self._union: dict[int, int] = {}  # series id -> place in the schema of all series, used beyond MANY_SCHEMAS
        self._step = 0
        self._flushed_step = 0
        self._flushed_at: float | None = None

    def row(self, type: int, a: int, b: int, step: int, x: float, y: float) -> None:
        """Add one row (`type` is the code of its letter); it reaches the disk with the next flush."""
        self.waiting.append((type, a, b, step, x, y))

    def _pack(self) -> None:
        rows = self.waiting[:]
        del self.waiting[: len(rows)]
        for row in rows:
            try:
                self._rows += _pack_row(*row)
            except Exception:  # nothing of ours may reach the training
                self._odd_row(*row)

    def _odd_row(self, type: int, a: int, b: int, step: int, x: float, y: float) -> None:
        """A row whose numbers do not fit: held at the limits of their fields."""
        try:
            a, b = min(max(int(a), 0), 0xFF), min(max(int(b), 0), 0xFFFF)
            step = min(max(int(step), 0), frames.STEP_LIMIT)
            self._rows += _pack_row(type, a, b, step, _double(x), _double(y))
        except Exception:  # nothing of ours may reach the training
            self.dropped += 1

    def declare(self, object: dict[str, Any]) -> None:
        """Add a JSON frame (a declaration or an event); what JSON does not know is written as its str()."""
        if self.broken is None:
            try:
                self._frames += self._json_frame(object)
            except Exception:  # nothing of ours may reach the training
                self.dropped += 1

    def _json_frame(self, object: dict[str, Any]) -> bytes:
        payload = json.dumps(object, separators=(",", ":"), default=str, skipkeys=True).encode("ascii")
        if len(payload) > frames.MAX_PAYLOAD:
            raise ValueError("the declaration is too long")
        step = object.get("step")
        return frames.frame(frames.JSON, step if isinstance(step, int) else 0, payload)

    def series(self, what: str, subject: str) -> int:
        """The id of a series, the same for the same names."""
        key = (what, subject)
        found = self._series.get(key)
        return self._series.setdefault(key, len(self._series)) if found is None else found

    def statistics(
        self,
        step: int,
        rows: list[tuple[float, ...]] | tuple[tuple[int, ...], array[float]],
        keep: bool = False,
    ) -> None:
        """Add the statistics of one step.

        Args:
            rows: for each series its id and its eight numbers, or (ids, array 'f' of eight numbers for each id).
            keep: write it though the quota is used up (the first non-finite number).
        """
        if self.broken is not None or (not keep and self.written > self._quota):
            return
        try:
            if isinstance(rows, tuple):
                ids, values = tuple(rows[0]), rows[1]
            else:
                ids = tuple([int(row[0]) for row in rows])
                values = _floats(list(chain.from_iterable([row[1:] for row in rows])))
            if values.typecode != "f":
                values = _floats(values.tolist())
            if len(values) != len(ids) * frames.FIELDS:
                raise ValueError("eight numbers for each series")
            if ids and ids not in self._schemas and len(self._schemas) >= MANY_SCHEMAS:
                ids, values = self._widened(ids, values)
            if ids:
                self._frames += frames.statistics_frame(step, self._schema(ids), values)
        except Exception:  # nothing of ours may reach the training
            self.dropped += 1
            return
        if keep and self.written > self._quota:
            self._flush(always=True)

    def _widened(self, ids: tuple[int, ...], values: array[float]) -> tuple[tuple[int, ...], array[float]]:
        """The same numbers among those of all series ever seen; eight NaN where a series has none."""
        if not all(id in self._union for id in ids):
            every = dict.fromkeys(id for known in (*self._schemas, ids) for id in known)
            self._union = {id: place for place, id in enumerate(every)}
        wide = array("f", [float("nan")]) * (len(self._union) * frames.FIELDS)
        for index, id in enumerate(ids):
            start = self._union[id] * frames.FIELDS
            wide[start : start + frames.FIELDS] = values[index * frames.FIELDS : (index + 1) * frames.FIELDS]
        return tuple(self._union), wide

    def _schema(self, ids: tuple[int, ...]) -> int:
        """The id of the schema of these series, declared when it is new."""
        found = self._schemas.get(ids)
        if found is not None:
            return found
        names = list(self._series)
        schema = len(self._schemas)
        text = self._json_frame({"type": "schema", "id": schema, "series": [names[id] for id in ids]})
        self._schemas[ids] = schema
        self._schema_frames.append(text)
        self._frames += text
        return schema

    def tick(self, step: int, now: float) -> None:
        """Tell the number of steps done and the time in seconds (any steady clock); flushes when it is time to."""
        self._step = step
        if self._flushed_at is None:
            self._flushed_at = now
        elif (
            now - self._flushed_at < SECONDS_AT_RISK
            and step - self._flushed_step < STEPS_AT_RISK
            and len(self._frames) < BUFFER_BYTES
        ):
            return
        self._flushed_at = now
        self._flushed_step = step
        self.flush()

    def flush(self) -> None:
        """Write what is waiting with one system call."""
        self._flush(always=False)

    def _flush(self, always: bool) -> None:
        if self.broken is None and os.getpid() != self._owner:
            self.broken = "this process is a fork of the one that records"
        self._pack()
        rows, waiting = bytes(self._rows), bytes(self._frames)
        del self._rows[: len(rows)], self._frames[: len(waiting)]
        if self.broken is not None:
            return
        if self.written > self._quota:
            self._measure()
            if self.written > 2 * self._quota and not always:
                self._repeat_schemas = True  # one of them may just have been thrown away
                return
        # Rows first: a kill in the middle of the write then takes statistics, which are many and alike.
        data = frames.frame(frames.ROWS, self._step, rows) + waiting if rows else waiting
        if not data:
            return
        try:
            self._write(data)
        except OSError as error:
            self.broken = f"the record could not be written ({error.strerror or error}), so it ends here"
            self._close_file()

    def _write(self, data: bytes) -> None:
        if self._fd >= 0 and self._segment_size + len(data) > self._segment_bytes:
            self._close_file()
        if self._fd < 0:
            self._open()
            if len(self._paths) > 1:
                self._repeat_schemas = True  # so that each segment can be read without the ones before it
                self._measure()
        elif os.fstat(self._fd).st_nlink == 0:
            raise OSError(2, "its folder was deleted")
        if self._repeat_schemas:
            self._repeat_schemas = False
            data = b"".join(self._schema_frames) + data
        view = memoryview(data)
        while view:
            done = os.write(self._fd, view)
            self._segment_size += done
            self.written += done
            view = view[done:]

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        while True:
            path = os.path.join(self._folder, f"{self._prefix}{self._next_segment:04d}.wfr")
            self._next_segment += 1
            try:
                self._fd = os.open(path, flags, 0o644)
            except FileExistsError:  # an earlier process of the same rank had our number
                continue
            self._paths.append(path)
            self._segment_size = 0
            return

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass

    def _measure(self) -> None:
        """Look at the sizes of the closed segments: the parent may have thinned them."""
        open_bytes = self._segment_size if self._fd >= 0 else 0
        closed = self._paths[:-1] if self._fd >= 0 else self._paths
        self.written = open_bytes + sum(_size(path) for path in closed)

    def quota_left(self) -> float:
        """Share of the quota that is left, from 1.0 (nothing written) down to 0.0."""
        return max(0.0, 1.0 - self.written / self._quota)

    def close(self) -> None:
        """Write what is waiting and close the file; further calls do nothing that matters."""
        self._pack()
        if self.dropped and self.broken is None:
            why = f"{self.dropped} declarations or statistics could not be encoded"
            self.declare({"type": "unseen", "what": "record", "why": why})
            self.dropped = 0
        self.flush()
        self._close_file()
        if self.broken is None:
            self.broken = "the record was closed"


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _double(value: Any) -> float:
    """The number as a float: inf where an integer is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _floats(values: list[Any]) -> array[float]:
    """An array of float32; numbers too large for one become infinite."""
    try:
        return array("f", values)
    except OverflowError:
        largest = 3.4028234663852886e38
        numbers = [_double(value) for value in values]
        return array("f", [_signed_inf(x) if abs(x) > largest else x for x in numbers])


def _signed_inf(value: float) -> float:
    return float("inf") if value > 0 else float("-inf")
