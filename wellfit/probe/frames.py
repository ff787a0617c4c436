"""The bytes of the record: frame header, rows, statistics payload (see docs/record.md). Standard library only."""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from typing import NamedTuple

MAGIC = b"WFIT"
VERSION = 1

JSON = 1
STATISTICS = 2
ROWS = 3

THINNED = 1  # bit 0 of the flags: a statistics frame that stands for several steps

FIELDS = 8  # float32 numbers of one series at one step
BLOCK_SERIES = 64  # series under one CRC: one series is read by touching one block

# Longer payloads are refused by both sides: a header that claims more is taken for damage and nothing is allocated.
MAX_PAYLOAD = 64 * 1024 * 1024

# Magic, kind, version, flags, payload length, step, CRC of the payload; then the CRC of these 20 bytes.
_HEAD = struct.Struct("<4sBBHIII")
_CRC = struct.Struct("<I")
_HEAD_SIZE = _HEAD.size
HEADER_SIZE = _HEAD_SIZE + _CRC.size

ROW = struct.Struct("<BBHIdd")  # type, a, b, step, x, y
STATISTICS_HEAD = struct.Struct("<II")  # schema id, number of series

SERIES_BYTES = 4 * FIELDS
BLOCK_BYTES = BLOCK_SERIES * SERIES_BYTES + _CRC.size
STEP_LIMIT = 0xFFFFFFFF

ROW_BACKWARD = ord("B")
ROW_STEP = ord("S")
ROW_HYPER = ord("H")
ROW_EVALUATION = ord("E")
ROW_LOSS = ord("L")
ROW_CLIP = ord("C")


class Header(NamedTuple):
    """The header of one frame: `length` in bytes of payload, `crc` as docs/record.md says for its kind."""

    kind: int
    version: int
    flags: int
    length: int
    step: int
    crc: int


def pack_header(kind: int, step: int, length: int, crc: int, flags: int = 0) -> bytes:
    """The 24 bytes before a payload of `length` bytes; steps beyond u32 are held at its limit."""
    step = min(max(step, 0), STEP_LIMIT)
    head = _HEAD.pack(MAGIC, kind, VERSION, flags, length, step, crc)
    return head + _CRC.pack(zlib.crc32(head))


def parse_header(data: bytes) -> Header | None:
    """The header at the start of `data`, or None if magic, CRC or length are not those of a frame."""
    if len(data) < HEADER_SIZE or data[:4] != MAGIC:
        return None
    if zlib.crc32(data[:_HEAD_SIZE]) != _CRC.unpack_from(data, _HEAD_SIZE)[0]:
        return None
    _, kind, version, flags, length, step, crc = _HEAD.unpack_from(data)
    return Header(kind, version, flags, length, step, crc) if length <= MAX_PAYLOAD else None


def frame(kind: int, step: int, payload: bytes | bytearray, flags: int = 0) -> bytes:
    """A whole frame of kind JSON or ROWS."""
    return pack_header(kind, step, len(payload), zlib.crc32(payload), flags) + payload


def statistics_length(series: int) -> int:
    """Bytes of the payload of a statistics frame of that many series."""
    blocks = -(-series // BLOCK_SERIES)
    return STATISTICS_HEAD.size + series * SERIES_BYTES + blocks * _CRC.size


def block_place(series: int, block: int) -> tuple[int, int, int]:
    """Where a block lies: (offset from the start of the frame, bytes with its CRC, series in it)."""
    members = min(BLOCK_SERIES, series - block * BLOCK_SERIES)
    offset = HEADER_SIZE + STATISTICS_HEAD.size + block * BLOCK_BYTES
    return offset, members * SERIES_BYTES + _CRC.size, members


def statistics_frame(step: int, schema: int, values: array[float], flags: int = 0) -> bytes:
    """A whole statistics frame.

    Args:
        values: array of type 'f', eight numbers for each series of the schema, in its order.
    """
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return statistics_frame_of_bytes(step, schema, values.tobytes(), flags)


def statistics_frame_of_bytes(step: int, schema: int, data: bytes, flags: int = 0) -> bytes:
    """A whole statistics frame of little-endian float32 numbers that are bytes already."""
    series = len(data) // SERIES_BYTES
    head = STATISTICS_HEAD.pack(schema, series)
    parts = [pack_header(STATISTICS, step, statistics_length(series), zlib.crc32(head), flags), head]
    view = memoryview(data)
    size = BLOCK_SERIES * SERIES_BYTES
    for start in range(0, len(data), size):
        block = view[start : start + size]
        parts.append(bytes(block))
        parts.append(_CRC.pack(zlib.crc32(block)))
    return b"".join(parts)
