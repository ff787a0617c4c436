"""A file that was read: what is in it, and its tensors, each decoded when it is asked for."""

from __future__ import annotations

import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.frame import check_start, open_frame
from wellfit.slim.wfz.header import Entry, take_header
from wellfit.slim.wfz.kinds import alias, kind_of
from wellfit.slim.wfz.numbers import array_of, patterns_of
from wellfit.slim.wfz.text import take_text
from wellfit.slim.wfz.varint import Cursor

LEAST_LIMIT = 64 << 20  # bytes that any file may decode to, ...
MOST_GAIN = 10_000  # ... and times its own size that it may: a pruned layer is honestly 1,000 times as large


class Stored:
    """One tensor of a file: what is known of it, and what is found out by decoding it when first asked for.

    Attributes:
        name: of the tensor.
        kind: how it is stored: `"raw"`, `"planes"`, `"codebook"`, `"bits"`, `"grid"`, `"sparse"` or `"alias"`.
        dtype: the type of its numbers, as torch calls it.
        shape: of the tensor.
        bytes: that its numbers have in the file, with their CRC.
        tied_to: the name of the tensor that an alias means, else None.
    """

    def __init__(self, contents: Contents, entry: Entry, tied_to: str | None) -> None:
        self._contents = contents
        self._entry = entry
        self.name = entry.name
        self.kind = alias.NAME if tied_to is not None else kind_of(entry.kind).NAME
        self.dtype = entry.dtype.name
        self.shape = entry.shape
        self.bytes = entry.stored
        self.tied_to = tied_to

    @property
    def decoded(self) -> int:
        """Bytes of the tensor in memory; 0 of an alias."""
        return 0 if self.tied_to is not None else self._entry.decoded

    @cached_property
    def coder(self) -> str:
        """What coded most of its bytes: `"none"`, `"packed"`, `"huffman"`, `"positions"`, `"rans"` or `"mixing"`."""
        return self._contents.coder_of(self.name)

    @property
    def distinct(self) -> int:
        """Distinct values besides 0."""
        return self._values[0]

    @property
    def kept(self) -> float:
        """Share of numbers that are not 0; 1 of an empty tensor."""
        return self._values[1]

    @cached_property
    def _values(self) -> tuple[int, float]:
        dtype = self._entry.dtype
        patterns = patterns_of(np.ascontiguousarray(self._contents.tensor(self.name)), dtype)
        if dtype.nature == "complex":  # a number is one number, of two parts
            whole = np.ascontiguousarray(patterns.reshape(2, -1).T)
            numbers = whole.view(f"V{dtype.size}").reshape(-1)[whole.any(axis=1)]
            return len(set(numbers.tolist())), len(numbers) / len(whole) if len(whole) else 1.0
        sign = patterns.dtype.type(1 << (8 * dtype.width - 1)) if dtype.is_floating else patterns.dtype.type(0)
        others = patterns[(patterns & ~sign) != 0]
        return len(np.unique(others)), others.size / patterns.size if patterns.size else 1.0


class Contents:
    """What `read` found.

    Attributes:
        path: of the file.
        size: bytes of the file.
        changes: the changes of the module tree, in their order, as they were given to `write`.
        meta: what else was told about the model.
        stored: the tensors by name, in their order.
    """

    def __init__(self, path: Path, data: bytes, max_bytes: int | None) -> None:
        self.path = path
        self.size = len(data)
        flags, cursor, is_right = open_frame(data)
        try:
            entries, text = take_header(cursor, flags)
            self._blobs = _blobs_of(cursor, entries)
        except Damaged:
            if is_right:
                raise
            raise Damaged("it is damaged in its header, or cut short") from None
        if not is_right:
            raise Damaged(f"it is damaged{self._where()}: its SHA-256 is not that of its bytes")
        _check_size(entries, len(data), max_bytes)
        self.changes, self.meta = take_text(text)
        owners = [None if entry.owner is None else entries[entry.owner].name for entry in entries]
        self.stored = {entry.name: Stored(self, entry, owner) for entry, owner in zip(entries, owners)}

    def tensor(self, name: str) -> NDArray[Any]:
        """A tensor, decoded anew; bfloat16 and 8-bit floats as their bits (see `numbers.marked`).

        Raises:
            WellfitError: there is no tensor of this name.
            Damaged: its bytes are none.
        """
        entry, payload = self._found(name)
        try:
            shape = entry.dtype.pattern_shape(entry.shape)
            if 0 in shape:
                if len(payload):
                    raise Damaged(f"it is empty, but has {len(payload)} bytes")
                return np.zeros(entry.shape, entry.dtype.storage)
            patterns = kind_of(entry.kind).unpack(payload, entry.dtype, shape)
            return array_of(patterns, entry.dtype, entry.shape)
        except Damaged as error:
            raise Damaged(f"{self.path}: tensor {name!r}: {error}") from None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All tensors, decoded; tied ones are one array."""
        found: dict[str, NDArray[Any]] = {}
        for stored in self.stored.values():
            if stored.tied_to is None:
                found[stored.name] = self.tensor(stored.name)
        return {name: found[name if stored.tied_to is None else stored.tied_to] for name, stored in self.stored.items()}

    def coder_of(self, name: str) -> str:
        """The name of the coder of most bytes of a tensor."""
        entry, payload = self._found(name)
        shape = entry.dtype.pattern_shape(entry.shape)
        try:
            return "none" if 0 in shape else kind_of(entry.kind).coder(payload, entry.dtype, shape)
        except Damaged as error:
            raise Damaged(f"{self.path}: tensor {name!r}: {error}") from None

    def _found(self, name: str) -> tuple[Entry, memoryview]:
        stored = self.stored.get(name)
        if stored is None:
            raise WellfitError(f"{self.path} has no tensor {name!r}{did_you_mean(name, self.stored)}")
        entry, payload, crc = self._blobs[name if stored.tied_to is None else stored.tied_to]
        if zlib.crc32(payload) != crc:
            raise Damaged(f"{self.path}: tensor {name!r} is damaged: its CRC-32 is not that of its bytes")
        return entry, payload

    def _where(self) -> str:
        """Which tensors are damaged, where that can be told."""
        names = [repr(name) for name, (_, payload, crc) in self._blobs.items() if zlib.crc32(payload) != crc]
        return (
            f" in {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else ""
        )


def read(path: str | Path, *, max_bytes: int | None = None) -> Contents:
    """Read a file, and check it: its SHA-256, its header and every size; tensors are decoded when asked for.

    Args:
        path: of the file.
        max_bytes: what all tensors together may take in memory; by default 10,000 times the size of the file, at
            least 64 MiB.

    Raises:
        WellfitError: the file cannot be opened.
        Damaged: it is damaged, hostile, too new, or decodes to more than `max_bytes`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            check_start(file.read(64))  # before all of what may be any file, of any size, is read
            file.seek(0)
            data = file.read()
        return Contents(path, data, max_bytes)
    except OSError as error:
        raise WellfitError(f"{path} cannot be read: {error.strerror or error}") from None
    except Damaged as error:
        raise Damaged(f"{path}: {error}") from None


def _blobs_of(cursor: Cursor, entries: list[Entry]) -> dict[str, tuple[Entry, memoryview, int]]:
    """Bytes and CRC of each tensor but aliases: one behind the other, up to the end. So none can overlap, or hide."""
    blobs = {}
    for entry in entries:
        if entry.owner is None:
            payload = cursor.take(entry.length)
            crc = int.from_bytes(cursor.take(4), "little") if entry.length else 0
            blobs[entry.name] = (entry, payload, crc)
    cursor.finish()
    return blobs


def _check_size(entries: list[Entry], size: int, max_bytes: int | None) -> None:
    decoded = sum(entry.decoded for entry in entries)  # tied ones too: `expand` writes each of them
    limit = max(LEAST_LIMIT, MOST_GAIN * size) if max_bytes is None else max_bytes
    if decoded > limit:
        raise Damaged(
            f"its {size} bytes decode to {decoded}, and {limit} are allowed: if you trust it, "
            f"read it with max_bytes={decoded} (--max-bytes {decoded})"
        )
