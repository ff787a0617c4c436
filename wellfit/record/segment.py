"""One segment file of a record, read while it grows: frames found, damage stepped over."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wellfit.probe import frames

_PREFIX = frames.HEADER_SIZE + frames.STATISTICS_HEAD.size
_SEARCH = 1024 * 1024


class Frame(NamedTuple):
    """A good frame: where it begins in the file, its header, its payload (statistics: the first 8 bytes only)."""

    offset: int
    header: frames.Header
    payload: bytes


class Scanner:
    """Walks over the frames of a file from where it stopped last time, whatever the bytes are.

    Attributes:
        offset: bytes of the file that are done.
        skipped: bytes left out because they are no good frame.
        unfinished: bytes of a frame at the end that is cut short, or still being written.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.skipped = 0
        self.unfinished = 0
        self._suspect: int | None = None

    def frames(self, fd: int, closed: bool) -> Iterator[Frame]:
        """The good frames that are new.

        Args:
            closed: nothing more will be appended, so a bad last frame is damage and not one still being written.
        """
        size = os.fstat(fd).st_size
        while True:
            self.unfinished = max(size - self.offset, 0)
            head = os.pread(fd, _PREFIX, self.offset)
            if len(head) < frames.HEADER_SIZE:
                return
            header = frames.parse_header(head)
            if header is None:
                # A statistics frame cut short in the middle of a file leads here: good frames may lie inside of it.
                start = self.offset + 1 if self._suspect is None else self._suspect + 1
                if not self._search(fd, start):
                    return
                continue
            end = self.offset + frames.HEADER_SIZE + header.length
            if end > size:
                if not closed or not self._search(fd, self.offset + 1, only_if_found=True):
                    return
                continue
            payload = _good_payload(fd, self.offset, header, head)
            if payload is None:
                if end == size and not closed:
                    return  # perhaps not all of it is visible yet
                self._search(fd, self.offset + 1)
                continue
            found = Frame(self.offset, header, payload)
            self._suspect = self.offset if header.kind == frames.STATISTICS else None
            self.offset = end
            yield found

    def _search(self, fd: int, start: int, only_if_found: bool = False) -> bool:
        """Go on at the next good header at or after `start`; without one, almost at the end of the file."""
        self._suspect = None
        position = start
        while True:
            data = os.pread(fd, _SEARCH, position)
            at = data.find(frames.MAGIC)
            while at >= 0 and len(data) - at >= frames.HEADER_SIZE:
                if frames.parse_header(data[at : at + frames.HEADER_SIZE]) is not None:
                    self._leave_out(position + at)
                    return True
                at = data.find(frames.MAGIC, at + 1)
            if len(data) < _SEARCH:
                if not only_if_found:
                    self._leave_out(max(position + len(data) - frames.HEADER_SIZE + 1, self.offset))
                return False
            position += len(data) - frames.HEADER_SIZE + 1

    def _leave_out(self, until: int) -> None:
        self.skipped += max(until - self.offset, 0)
        self.offset = until


def _good_payload(fd: int, offset: int, header: frames.Header, head: bytes) -> bytes | None:
    """The payload if its CRC is right; of a statistics frame the schema id and the number of series."""
    if header.version != frames.VERSION:
        return b""
    if header.kind == frames.STATISTICS:
        payload = head[frames.HEADER_SIZE :]
        if len(payload) < frames.STATISTICS_HEAD.size or zlib.crc32(payload) != header.crc:
            return None
        series: int = frames.STATISTICS_HEAD.unpack(payload)[1]
        return payload if frames.statistics_length(series) == header.length else None
    payload = os.pread(fd, header.length, offset + frames.HEADER_SIZE)
    return payload if len(payload) == header.length and zlib.crc32(payload) == header.crc else None


class Place(NamedTuple):
    """Where a statistics frame lies."""

    step: int
    offset: int
    series: int


class Segment:
    """A segment file and the index of its statistics frames.

    Attributes:
        places: for each schema id the statistics frames, in the order of the file.
        generation: goes up when the file was replaced (thinned) and the index was made anew.
        frame_count: good frames met in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[int, list[Place]] = {}
        self.generation = 0
        self.frame_count = 0
        self.trouble: str | None = None
        self.bad_blocks: set[tuple[int, int]] = set()
        self._newer = 0
        self._scanner = Scanner()
        self._inode = -1
        self._passed = 0  # JSON and rows frames handed on, so that none comes twice after thinning
        self._to_pass = 0

    def read(self, closed: bool) -> Iterator[Frame]:
        """The JSON and rows frames that are new; statistics frames go to the index."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return
        try:
            self._look_for_thinning(os.fstat(fd))
            for found in self._scanner.frames(fd, closed):
                self.frame_count += 1
                if found.header.version != frames.VERSION:
                    self._newer += 1
                elif found.header.kind == frames.STATISTICS:
                    self._index(found)
                elif found.header.kind in (frames.JSON, frames.ROWS):
                    if self._to_pass:
                        self._to_pass -= 1
                        continue
                    self._passed += 1
                    yield found
            self.trouble = None
        except OSError as error:
            self.trouble = error.strerror or str(error)
        finally:
            os.close(fd)

    def _look_for_thinning(self, status: os.stat_result) -> None:
        if (status.st_ino != self._inode and self._inode != -1) or status.st_size < self._scanner.offset:
            self._scanner = Scanner()
            self.places = {}
            self.bad_blocks = set()
            self._newer = 0
            self.frame_count = 0
            self._to_pass = self._passed
            self.generation += 1
        self._inode = status.st_ino

    def _index(self, found: Frame) -> None:
        schema, series = frames.STATISTICS_HEAD.unpack(found.payload)
        self.places.setdefault(schema, []).append(Place(found.header.step, found.offset, series))

    def read_block(self, fd: int, place: Place, block: int) -> bytes | None:
        """The float32 bytes of one block of a statistics frame, or None if they are damaged (noted once)."""
        offset, size, _ = frames.block_place(place.series, block)
        data = os.pread(fd, size, place.offset + offset)
        if len(data) == size and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"):
            return data
        self.bad_blocks.add((place.offset, block))
        return None

    def open(self) -> int | None:
        """A file descriptor of the very file that was indexed, or None if it is gone or was replaced."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        if os.fstat(fd).st_ino == self._inode:
            return fd
        os.close(fd)
        return None

    @property
    def unfinished(self) -> bool:
        """Whether it ends in the middle of a frame."""
        return self._scanner.unfinished > 0

    def damage(self, last: bool) -> list[str]:
        """Sentences on what could not be read; `last`: a cut end is no damage, the process may have been killed."""
        name = self.path.name
        said = []
        left_out = self._scanner.skipped + (0 if last else self._scanner.unfinished)
        if left_out:
            said.append(f"{left_out} damaged bytes of {name} were left out")
        if self.bad_blocks:
            said.append(f"{len(self.bad_blocks)} damaged blocks of statistics in {name} were left out")
        if self._newer:
            said.append(f"{self._newer} frames of {name} were written by a newer wellfit and left out")
        if self.trouble:
            said.append(f"{name} could not be read ({self.trouble})")
        return said
