"""Writing a file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from wellfit.errors import WellfitError
from wellfit.record.writing import replace_file
from wellfit.slim.wfz.frame import frame
from wellfit.slim.wfz.header import LONGEST_NAME, MOST_DIMENSIONS, Entry, pack_header
from wellfit.slim.wfz.kinds import alias, pack
from wellfit.slim.wfz.numbers import BFloat16, Float8, Same, patterns_of, taken
from wellfit.slim.wfz.text import pack_text


@dataclass(frozen=True)
class WrittenTensor:
    """How one tensor was written.

    Args:
        name: of the tensor.
        kind: how it is stored; `"alias"` where it is tied.
        bytes: that its numbers have in the file, with their CRC.
        decoded: bytes of the tensor in memory; 0 of an alias.
    """

    name: str
    kind: str
    bytes: int
    decoded: int


@dataclass(frozen=True)
class Written:
    """What `write` made.

    Args:
        path: of the file.
        bytes: of the file.
        tensors: by name, in their order.
    """

    path: Path
    bytes: int
    tensors: dict[str, WrittenTensor]

    @property
    def decoded(self) -> int:
        """Bytes of all tensors in memory, tied ones counted once."""
        return sum(tensor.decoded for tensor in self.tensors.values())


def write(
    path: str | Path,
    tensors: Mapping[str, NDArray[Any] | BFloat16 | Float8 | Same],
    *,
    changes: Sequence[Mapping[str, Any]] = (),
    meta: Mapping[str, Any] = {},
    small: bool = True,
) -> Written:
    """Write a file; whatever the values are, reading it gives the same bits.

    Args:
        path: of the file; one that is there is replaced when the new one is complete.
        tensors: by name: numpy arrays of bool, whole numbers, floats or complex numbers; `BFloat16` and `Float8` for
            types that numpy lacks; `Same(name)` for a tensor that is tied to another.
        changes: what was changed of the module tree, as JSON.
        meta: what else is to be told about the model, as JSON.
        small: as few bytes as can be; if False, what is quick to read and nearly as small (a tenth larger at most).

    Raises:
        WellfitError: something cannot be held, or the file cannot be written.
    """
    entries: list[Entry] = []
    blobs = []
    made = {}
    places = {name: place for place, name in enumerate(tensors)}
    for name in tensors:
        _check_name(name)
        entry, payload, told = _packed(name, tensors, places, small)
        entries.append(entry)
        made[name] = told
        if payload:
            blobs += [payload, zlib.crc32(payload).to_bytes(4, "little")]
    pieces = frame(*pack_header(entries, pack_text(changes, meta)), blobs)
    try:
        replace_file(Path(path), b"".join(pieces))
    except OSError as error:
        raise WellfitError(f"{path} cannot be written: {error.strerror or error}") from None
    return Written(Path(path), sum(map(len, pieces)), made)


def _packed(
    name: str, tensors: Mapping[str, NDArray[Any] | BFloat16 | Float8 | Same], places: Mapping[str, int], small: bool
) -> tuple[Entry, bytes, WrittenTensor]:
    value = tensors[name]
    if isinstance(value, Same):
        owner = alias.owner_of(name, tensors)
        _, dtype = taken(owner, tensors[owner])
        return Entry(name, alias.CODE, dtype, (), 0, places[owner]), b"", WrittenTensor(name, alias.NAME, 0, 0)
    array, dtype = taken(name, value)
    if array.ndim > MOST_DIMENSIONS:
        raise WellfitError(f"{name!r} has {array.ndim} dimensions: a .wfz file holds at most {MOST_DIMENSIONS}")
    kind, payload = pack(patterns_of(array, dtype), dtype, small=small)
    entry = Entry(name, kind.CODE, dtype, array.shape, len(payload))
    return entry, payload, WrittenTensor(name, kind.NAME, entry.stored, entry.decoded)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise WellfitError(f"{name!r} is no name: tensors are named by text")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise WellfitError(f"the name {name!r} cannot be written as UTF-8") from None
    if length > LONGEST_NAME:
        raise WellfitError(f"the name {name[:40]!r}... has {length} bytes: at most {LONGEST_NAME} are possible")
