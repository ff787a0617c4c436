"""Files of safetensors, with torch alone: nothing else is imported into a user's program.

Format: https://huggingface.co/docs/safetensors (8 bytes for the length of the header, a JSON header with type, shape
and place of each tensor, the tensors).
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from collections.abc import Mapping
from typing import Any

import torch

from wellfit.errors import WellfitError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_LONGEST = 100_000_000  # bytes of a header, as the format has it


def can_write(tensor: torch.Tensor) -> bool:
    """Whether the format has a name for its type, and its numbers lie in memory."""
    return tensor.dtype in _NAMES and tensor.layout is torch.strided and not tensor.is_meta


def write(path: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Write a file, beside its place first.

    Args:
        tensors: each as `can_write` wants it.
        about: goes into the header's `__metadata__`.
    """
    parts = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header: dict[str, Any] = {"__metadata__": dict(about)}
    at = 0
    for name, tensor in parts.items():
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    beside = f"{path}.{os.getpid()}.part"
    with open(beside, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in parts.values():
            file.write(ctypes.string_at(tensor.data_ptr(), tensor.numel() * tensor.element_size()))
    os.replace(beside, path)


def read(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a file.

    Raises:
        WellfitError: it is no such file, or damaged.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else size
        if length > min(_LONGEST, size - 8):
            raise WellfitError(f"{os.path.basename(path)} is no file of safetensors, or it is cut off")
        text, data = file.read(length), bytearray(file.read())
    try:
        header = json.loads(text)
        return {name: _tensor(entry, data) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WellfitError(f"{os.path.basename(path)} is a damaged file of safetensors ({error})") from None


def _tensor(entry: Any, data: bytearray) -> torch.Tensor:
    dtype, shape = _TYPES[entry["dtype"]], [int(length) for length in entry["shape"]]
    start, end = (int(place) for place in entry["data_offsets"])
    count = 1
    for length in shape:
        count *= length
    if min([0, *shape]) < 0 or not 0 <= start <= end <= len(data) or end - start != count * dtype.itemsize:
        raise ValueError("a tensor lies outside of it, or is of another size than its shape says")
    if not count:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=torch.uint8, count=end - start, offset=start).clone().view(dtype).view(shape)
