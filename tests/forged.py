"""Taking a `.wfz` file to pieces and putting others together, with checksums that are right: what a forger would do."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field

from wellfit.slim.wfz.frame import MAGIC
from wellfit.slim.wfz.header import take_header
from wellfit.slim.wfz.varint import Cursor, varint


@dataclass
class Pieces:
    """A file: its header before deflating, and the bytes of its tensors."""

    header: bytes
    payloads: list[bytes] = field(default_factory=list)
    version: int = 1
    flags: int = 0

    def file(self) -> bytes:
        """The whole file, every sum right."""
        head = MAGIC + bytes([self.version, self.flags]) + varint(len(self.header)) + self.header
        return signed(head + b"".join(with_crc(payload) for payload in self.payloads))


def with_crc(payload: bytes) -> bytes:
    """The numbers of one tensor as they stand in a file."""
    return payload + zlib.crc32(payload).to_bytes(4, "little") if payload else b""


def signed(data: bytes) -> bytes:
    """Everything before the SHA-256, and it."""
    return data + hashlib.sha256(data).digest()


def taken_apart(data: bytes) -> Pieces:
    """The pieces of a good file of version 1."""
    cursor = Cursor(data[6:-32], "a file")
    flags = data[5]
    length = cursor.varint()
    if flags:
        cursor.varint()
    header = bytes(cursor.take(length))
    if flags:
        header = zlib.decompress(header, -15)
    entries, _ = take_header(Cursor(varint(len(header)) + header, "a header"), 0)
    payloads = []
    for entry in entries:
        payloads.append(bytes(cursor.take(entry.length)))
        cursor.take(4 if entry.length else 0)
    return Pieces(header, payloads)


def entry(
    name: bytes = b"w", kind: int = 0, dtype: int = 11, shape: tuple[int, ...] = (2,), length: int = 8, shared: int = 0
) -> bytes:
    """One tensor of a header, whatever it says."""
    sizes = varint(len(shape)) + b"".join(map(varint, shape))
    return bytes([shared]) + varint(len(name)) + name + bytes([kind, dtype]) + sizes + varint(length)


def tie(name: bytes, owner: int, shared: int = 0) -> bytes:
    """One alias of a header."""
    return bytes([shared]) + varint(len(name)) + name + bytes([6]) + varint(owner)
