"""The header of a file: what each tensor is and how many bytes it has, in as few bytes as can be."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import prod

from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.kinds import alias, kind_of
from wellfit.slim.wfz.numbers import DTYPES, Dtype
from wellfit.slim.wfz.varint import Cursor, varint

MOST_DIMENSIONS = 32  # numpy 1.x has no more
LONGEST_NAME = 4096  # bytes
DEFLATED = 1  # flag: the header is deflated
_MOST_SHARED = 255  # bytes of a name that are taken from the name before: short names cannot be blown up
_FREE = 1 << 20  # a deflated header may have as many bytes ...
_GAIN = 32  # ... and as many times those that it has in the file
_LARGEST = 1 << 62  # no array has as many bytes


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Args:
        name: unlike the others'.
        kind: the number of its kind.
        dtype: the type of its numbers (an alias: that of its owner, as are shape and length).
        shape: of the tensor.
        length: bytes that its numbers take in the file, without their CRC.
        owner: the place of the tensor that this one is tied to, or None.
    """

    name: str
    kind: int
    dtype: Dtype
    shape: tuple[int, ...]
    length: int
    owner: int | None = None

    @property
    def decoded(self) -> int:
        """Bytes of the tensor in memory."""
        return prod(self.shape) * self.dtype.size

    @property
    def stored(self) -> int:
        """Bytes that the file has for its numbers, with their CRC: nothing has none."""
        return self.length + 4 if self.length else 0


def pack_header(entries: list[Entry], text: bytes) -> tuple[int, bytes]:
    """The flags, and the header as it stands in the file: its length, then its bytes.

    Args:
        text: the JSON that follows the tensors.
    """
    plain = varint(len(entries)) + _pack_entries(entries) + text
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    packed = packer.compress(plain) + packer.flush()
    head = varint(len(packed)) + varint(len(plain))
    if len(head) + len(packed) < len(varint(len(plain))) + len(plain) <= _FREE + _GAIN * len(packed):
        return DEFLATED, head + packed
    return 0, varint(len(plain)) + plain


def take_header(cursor: Cursor, flags: int) -> tuple[list[Entry], bytes]:
    """The tensors and the JSON behind them. Damaged if the bytes are no header."""
    if flags & ~DEFLATED:
        raise Damaged(f"its flags are {flags}: none but {DEFLATED} is known")
    length = cursor.varint()
    if flags & DEFLATED:
        header = Cursor(_inflate(cursor, length), "the header")
    else:
        header = Cursor(cursor.take(length), "the header")
    count = header.varint()
    if 4 * count > header.left:  # the shortest tensor, an alias
        raise Damaged(f"the header tells of {count} tensors in {header.left} bytes")
    return _take_entries(header, count), bytes(header.rest())


def _inflate(cursor: Cursor, length: int) -> bytes:
    plain = cursor.varint()
    if plain > _FREE + _GAIN * length:
        raise Damaged(f"the header is said to grow from {length} to {plain} bytes")
    unpacker = zlib.decompressobj(-15)
    try:
        header = unpacker.decompress(cursor.take(length), plain + 1)
    except zlib.error as error:
        raise Damaged(f"the header cannot be inflated: {error}") from None
    if len(header) != plain or not unpacker.eof or unpacker.unused_data:
        raise Damaged(f"the header is not of the {plain} bytes that it is said to have")
    return header


def _pack_entries(entries: list[Entry]) -> bytes:
    out = []
    before = b""
    for entry in entries:
        name = entry.name.encode()
        shared = _shared(before, name)
        out += [bytes([shared]), varint(len(name) - shared), name[shared:], bytes([entry.kind])]
        if entry.owner is not None:
            out.append(varint(entry.owner))
        else:
            out += [bytes([entry.dtype.code]), varint(len(entry.shape)), *map(varint, entry.shape)]
            out.append(varint(entry.length))
        before = name
    return b"".join(out)


def _shared(before: bytes, name: bytes) -> int:
    most = min(len(before), len(name), _MOST_SHARED)
    return next((place for place in range(most) if before[place] != name[place]), most)


def _take_entries(header: Cursor, count: int) -> list[Entry]:
    entries: list[Entry] = []
    names = set()
    before = b""
    for place in range(count):
        before = _take_name(header, before)
        try:
            name = before.decode()
        except UnicodeDecodeError:
            raise Damaged(f"the name of tensor {place} is no UTF-8") from None
        if name in names:
            raise Damaged(f"two tensors are called {name!r}")
        names.add(name)
        entries.append(_take_entry(header, name))
    return _with_owners(entries)


def _take_name(header: Cursor, before: bytes) -> bytes:
    shared, rest = header.byte(), header.varint()
    if shared > len(before) or shared + rest > LONGEST_NAME:
        raise Damaged(f"a name takes {shared} bytes of one that has {len(before)}, and {rest} of its own")
    return before[:shared] + bytes(header.take(rest))


def _take_entry(header: Cursor, name: str) -> Entry:
    kind = header.byte()
    if kind == alias.CODE:
        return Entry(name, kind, DTYPES[0], (), 0, header.varint())
    kind_of(kind)
    code, dimensions = header.byte(), header.varint()
    if code >= len(DTYPES) or dimensions > MOST_DIMENSIONS:
        raise Damaged(f"{name!r} has the type {code} and {dimensions} dimensions")
    shape = tuple(header.varint() for _ in range(dimensions))
    if prod(max(size, 1) for size in shape) * DTYPES[code].size >= _LARGEST:
        raise Damaged(f"{name!r} has the shape {shape}: no array is so large")
    return Entry(name, kind, DTYPES[code], shape, header.varint())


def _with_owners(entries: list[Entry]) -> list[Entry]:
    """Aliases with the type and the shape of what they mean."""
    aliases = [entry.owner is not None for entry in entries]
    out = []
    for entry in entries:
        if entry.owner is not None:
            alias.check_owner(entry.name, entry.owner, aliases)
            owner = entries[entry.owner]
            entry = Entry(entry.name, entry.kind, owner.dtype, owner.shape, 0, entry.owner)
        out.append(entry)
    return out
