"""Making a record smaller when its run's folder grows over the quota: fewer, coarser statistics of long ago."""

from __future__ import annotations

import os
import zlib
from array import array
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wellfit.probe import frames
from wellfit.record.segment import Scanner
from wellfit.record.writing import replace_file

GROUP = 4  # so many statistics frames of one schema become two: their minimum and their maximum
BEFORE = 2  # frames kept exactly before one in which numbers became non-finite
_PROPAGATING = slice(1, 4)  # mean, rms, amax: NaN here is news; elsewhere it may only mean "not measured"


class _Frame(NamedTuple):
    """A frame of a segment; `numbers` (series, 8) are None unless it is a statistics frame whose CRCs are right."""

    raw: bytes
    step: int
    schema: int
    numbers: NDArray[np.float32] | None


def thin(run_folder: str | os.PathLike[str], prefix: str, target_bytes: int, live: bool = True) -> int:
    """Thin the oldest segments of one record until its files hold no more than `target_bytes`.

    Every four consecutive statistics frames of the same schema become two: the element-wise minimum at the step of
    the first and the maximum at the step of the last (NaN wins in both). JSON and rows are kept verbatim. A frame in
    which a mean, rms or amax became non-finite (or finite again) and the two before it are kept exactly.

    Args:
        prefix: of the record's files ("r0-4711-"), `Record.prefix`.
        live: its process may still write: the newest segment is left alone.

    Returns:
        bytes freed; 0 if nothing can be thinned any more. A full disk stops it early, without harm.
    """
    named = [path for path in Path(run_folder).glob("*.wfr") if path.name.startswith(prefix)]
    paths = sorted(named, key=lambda path: (len(path.name), path.name))
    sizes = {path: _size(path) for path in paths}
    candidates = paths[:-1] if live else paths
    freed = 0
    while candidates and sum(sizes.values()) - freed > target_bytes:
        still = []
        for path in candidates:
            if sum(sizes.values()) - freed <= target_bytes:
                break
            saved = _thin_segment(path)
            freed += saved
            if saved:
                still.append(path)
        candidates = still
    return freed


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _thin_segment(path: Path) -> int:
    try:
        found, size = _read(path)
        data = b"".join(_thinned(found))
        if len(data) >= size:
            return 0
        replace_file(path, data)
        return size - len(data)
    except OSError:
        return 0


def _read(path: Path) -> tuple[list[_Frame], int]:
    """All good frames of a closed segment, and its size."""
    result = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        for found in Scanner().frames(fd, closed=True):
            raw = os.pread(fd, frames.HEADER_SIZE + found.header.length, found.offset)
            if found.header.version == frames.VERSION and found.header.kind == frames.STATISTICS:
                schema, series = frames.STATISTICS_HEAD.unpack(found.payload)
                result.append(_Frame(raw, found.header.step, schema, _numbers(raw, series)))
            else:
                result.append(_Frame(raw, found.header.step, -1, None))
    finally:
        os.close(fd)
    return result, size


def _numbers(raw: bytes, series: int) -> NDArray[np.float32] | None:
    parts = []
    for block in range(-(-series // frames.BLOCK_SERIES)):
        offset, size, members = frames.block_place(series, block)
        data = raw[offset : offset + size]
        if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
            return None
        parts.append(np.frombuffer(data[:-4], "<f4").reshape(members, frames.FIELDS))
    return np.concatenate(parts) if parts else None


def _thinned(found: list[_Frame]) -> list[bytes]:
    """The bytes of the segment's frames, in order, with groups of statistics put together."""
    output: list[bytes] = [frame.raw for frame in found]
    by_schema: dict[tuple[int, int], list[int]] = {}
    for index, frame in enumerate(found):
        if frame.schema >= 0:
            by_schema.setdefault((frame.schema, len(frame.raw)), []).append(index)
    for indexes in by_schema.values():
        kept = _kept([found[index].numbers for index in indexes])
        group: list[int] = []
        for index, keep in zip(indexes, kept, strict=True):
            group = [] if keep else [*group, index]
            if len(group) == GROUP:
                _put_together(found, group, output)
                group = []
    return output


def _kept(numbers: list[NDArray[np.float32] | None]) -> list[bool]:
    """For each frame of one schema whether it must stay as it is."""
    kept = [frame is None for frame in numbers]
    before: bytes | None = None
    for index, frame in enumerate(numbers):
        if frame is None:
            continue
        told = frame[:, _PROPAGATING]
        # 0 finite, 1 infinite, 2 NaN
        state = (np.isinf(told) + 2 * np.isnan(told)).astype(np.uint8).tobytes()
        if state != before if before is not None else any(state):
            kept[max(index - BEFORE, 0) : index + 1] = [True] * (index + 1 - max(index - BEFORE, 0))
        before = state
    # The next segment may begin with the first non-finite number: the two before it are here.
    kept[-BEFORE:] = [True] * len(kept[-BEFORE:])
    return kept


def _put_together(found: list[_Frame], group: list[int], output: list[bytes]) -> None:
    numbers = np.stack([part for index in group if (part := found[index].numbers) is not None])
    first, last = found[group[0]], found[group[-1]]
    output[group[0]] = _frame(first, numbers.min(axis=0))
    output[group[-1]] = _frame(last, numbers.max(axis=0))
    for index in group[1:-1]:
        output[index] = b""


def _frame(like: _Frame, numbers: NDArray[np.float32]) -> bytes:
    values = array("f", numbers.astype(np.float32).tobytes())
    return frames.statistics_frame(like.step, like.schema, values, frames.THINNED)
