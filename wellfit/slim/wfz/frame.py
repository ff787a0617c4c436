"""What is around the header and the numbers: magic and version before, the SHA-256 of everything behind."""

from __future__ import annotations

import hashlib
import re

from wellfit import __version__
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.varint import Cursor

MAGIC = b"\x8aWFZ"
VERSION = 1
_DIGEST = 32
_SHORTEST = len(MAGIC) + 2 + 2 + _DIGEST  # version and flags, a header of no tensor and its length


def frame(flags: int, header: bytes, blobs: list[bytes]) -> list[bytes]:
    """The pieces of a whole file."""
    pieces = [MAGIC + bytes([VERSION, flags]) + header, *blobs]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return [*pieces, digest.digest()]


def check_start(data: bytes) -> None:
    """Damaged if a file does not begin as one that is understood here; a few bytes of it are enough."""
    if not data.startswith(MAGIC):
        raise Damaged("this is no .wfz file")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise Damaged(_too_new(data[len(MAGIC)], data[len(MAGIC) + 1 :]))


def _too_new(version: int, rest: bytes) -> str:
    """Every later version tells, behind its number, the length and the text of the oldest wellfit that reads it."""
    if version < VERSION:
        return f"its version is {version}, which there has never been"
    told = rest[1 : 1 + rest[0]] if rest else b""
    is_whole = len(rest) > rest[0] if rest else False
    needed = told.decode() if is_whole and re.fullmatch(rb"[0-9]{1,5}(\.[0-9]{1,5}){1,3}", told) else ""
    return (
        f"it has version {version} of the format, and wellfit {__version__} reads version {VERSION}: "
        f"install wellfit {needed + ' or newer' if needed else 'in a newer version'}"
    )


def open_frame(data: bytes) -> tuple[int, Cursor, bool]:
    """The flags, what lies between them and the digest, and whether the digest is right.

    Raises:
        Damaged: it is no file of this version, or too short to be one.
    """
    check_start(data)
    if len(data) < _SHORTEST:
        raise Damaged(f"it ends after {len(data)} bytes, and so in its header")
    view = memoryview(data)
    is_right = hashlib.sha256(view[:-_DIGEST]).digest() == data[-_DIGEST:]
    return data[len(MAGIC) + 1], Cursor(view[len(MAGIC) + 2 : -_DIGEST], "the file"), is_right
