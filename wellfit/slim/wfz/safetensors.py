"""Plain `.safetensors` files, written and read without the package of that name; every length is checked.

The format: 8 bytes, the length of the header; the header, a JSON object with for each tensor its type, its shape and
where it begins and ends in what follows; the tensors, one behind the other without a gap. Little-endian.
See https://github.com/huggingface/safetensors. The header alone is read and made without numpy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.slim.wfz.damage import Damaged

if TYPE_CHECKING:
    from wellfit.slim.wfz.numbers import Given

LONGEST_HEADER = 100_000_000  # as in the package of that name
TYPES = {
    "bool": ("BOOL", 1), "uint8": ("U8", 1), "int8": ("I8", 1), "uint16": ("U16", 2), "int16": ("I16", 2),
    "uint32": ("U32", 4), "int32": ("I32", 4), "uint64": ("U64", 8), "int64": ("I64", 8), "float16": ("F16", 2),
    "bfloat16": ("BF16", 2), "float32": ("F32", 4), "float64": ("F64", 8), "complex64": ("C64", 8),
    "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1),
}  # fmt: skip
"""By torch's name: the name in the file, and the bytes of one number."""

PAIRS = "wellfit.complex128"
"""In the metadata: JSON, names of the tensors that are complex128, for which the format has no type. They are written
as float64 with one more dimension at the end, of size 2: the real and the imaginary part."""

_NAMES = {name: torch_name for torch_name, (name, _) in TYPES.items()}
_METADATA = "__metadata__"
_MOST_DIMENSIONS = 32
_LARGEST = 1 << 62


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file.

    Args:
        name: of the tensor.
        dtype: as torch calls it.
        shape: of the tensor.
        start, end: its bytes, counted from the end of the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def pack_header(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[Place]]:
    """The bytes before the tensors, and where each of those belongs behind them.

    Args:
        tensors: name, type (as torch calls it) and shape of each; they are put into the order that the format asks
            for: larger types first, so that all are aligned.
        metadata: text by name.
    """
    ordered = sorted(tensors, key=lambda tensor: (-TYPES[tensor[1]][1], tensor[0]))
    told: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    places = []
    end = 0
    for name, dtype, shape in ordered:
        start, end = end, end + prod(shape) * TYPES[dtype][1]
        places.append(Place(name, dtype, shape, start, end))
        told[name] = {"dtype": TYPES[dtype][0], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places


def take_header(start: bytes, size: int) -> tuple[int, list[Place], dict[str, str]]:
    """Where the tensors begin, the tensors in their order there, and the metadata.

    Args:
        start: the file, or as many of its first bytes as the header has.
        size: bytes of the whole file.

    Raises:
        Damaged: it is no such header, or does not fit a file of this size.
    """
    length = int.from_bytes(start[:8], "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise Damaged("it is no .safetensors file: its header would be longer than the file")
    told = _parsed(start[8 : 8 + length])
    metadata = told.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Damaged(f"its {_METADATA} is not text by name")
    places = sorted((_place(name, entry) for name, entry in told.items()), key=lambda place: (place.start, place.end))
    end = 0
    for place in places:
        if place.start != end:
            raise Damaged(f"tensor {place.name!r} begins at {place.start}, and the one before ends at {end}")
        end = place.end
    if end != size - 8 - length:
        raise Damaged(f"its tensors end at {end}, and its bytes at {size - 8 - length}")
    return 8 + length, places, metadata


def write(path: str | Path, tensors: Mapping[str, Given], metadata: Mapping[str, str] = {}) -> int:
    """Write a file through another name, so that there is never half of it.

    Args:
        path: of the file.
        tensors: by name; complex128 as `PAIRS` says.
        metadata: text by name.

    Returns:
        The bytes of the file.

    Raises:
        WellfitError: a tensor is none that such a file can hold, or the file cannot be written.
    """
    from wellfit.record.writing import replace_file
    from wellfit.slim.wfz.numbers import taken

    if _METADATA in tensors:
        raise WellfitError(f"a tensor cannot be called {_METADATA!r} in a .safetensors file: rename it")
    found = {name: taken(name, value) for name, value in tensors.items()}
    pairs = [name for name, (_, dtype) in found.items() if dtype.name == "complex128"]
    told = [
        (name, "float64" if name in pairs else dtype.name, (*array.shape, *([2] if name in pairs else [])))
        for name, (array, dtype) in found.items()
    ]
    header, places = pack_header(told, {**metadata, PAIRS: json.dumps(pairs)} if pairs else metadata)
    data = b"".join([header, *(found[place.name][0].tobytes() for place in places)])
    try:
        replace_file(Path(path), data)
    except OSError as error:
        raise WellfitError(f"{path} cannot be written: {error.strerror or error}") from None
    return len(data)


def read(path: str | Path) -> tuple[dict[str, Given], dict[str, str]]:
    """The tensors by name, in their order in the file, and the metadata.

    Raises:
        WellfitError: the file cannot be opened.
        Damaged: it is no such file, or a damaged one.
    """
    from wellfit.slim.wfz.numbers import marked

    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WellfitError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        begin, places, metadata = take_header(data, len(data))
        pairs = _pairs(metadata, places)
        view = memoryview(data)[begin:]
        tensors = {
            place.name: marked(_array(view[place.start : place.end], place, place.name in pairs), place.dtype)
            for place in places
        }
    except Damaged as error:
        raise Damaged(f"{path}: {error}") from None
    return tensors, metadata


def _array(data: memoryview, place: Place, is_pair: bool) -> Any:
    import numpy as np

    from wellfit.slim.wfz.numbers import DTYPE_NAMED, array_of

    if is_pair:
        return np.frombuffer(data, "<c16").reshape(place.shape[:-1]).copy()
    dtype = DTYPE_NAMED[place.dtype]
    if dtype.nature == "bool":
        return array_of(np.frombuffer(data, np.uint8).copy(), dtype, place.shape)
    return np.frombuffer(data, dtype.storage).reshape(place.shape).copy()


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        told = json.loads(text.decode(), object_pairs_hook=_object, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise Damaged("its header is no JSON object")
    try:
        "".join(told).encode()
    except UnicodeEncodeError:
        raise Damaged("the name of a tensor is no text") from None
    return told


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _place(name: str, entry: Any) -> Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Damaged(f"tensor {name!r} is not told of by dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise Damaged(f"tensor {name!r} has a shape or offsets that are not whole numbers")
    known = _NAMES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if known is None:
        told = re.sub(r"[^\w.]", "?", str(entry["dtype"])[:20])
        raise Damaged(f"tensor {name!r} has the type {told}: known are {', '.join(_NAMES)}")
    width = TYPES[known][1]
    if len(shape) > _MOST_DIMENSIONS or prod(max(size, 1) for size in shape) * width >= _LARGEST:
        raise Damaged(f"tensor {name!r} has the shape {shape[:_MOST_DIMENSIONS]}: no array is so large")
    if len(offsets) != 2 or offsets[1] - offsets[0] != prod(shape) * width:
        raise Damaged(f"tensor {name!r} of shape {shape} takes {prod(shape) * width} bytes, not those of {offsets}")
    return Place(name, known, tuple(shape), offsets[0], offsets[1])


def _pairs(metadata: dict[str, str], places: list[Place]) -> set[str]:
    try:
        names = json.loads(metadata.get(PAIRS, "[]"))
    except (ValueError, RecursionError):
        names = None
    able = {place.name for place in places if place.dtype == "float64" and place.shape[-1:] == (2,)}
    if not isinstance(names, list) or not all(isinstance(name, str) and name in able for name in names):
        raise Damaged(f"{PAIRS} in its metadata does not name tensors that can be complex")
    return set(names)
