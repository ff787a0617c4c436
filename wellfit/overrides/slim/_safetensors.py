"""Tensors of torch in files of safetensors, without numpy: nothing else is imported into a user's program."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

import torch

from wellfit.slim.wfz.safetensors import TYPES, pack_header, take_header


def can_write(tensor: torch.Tensor) -> bool:
    """Whether the format has a name for its type, and its numbers lie in memory."""
    return _name(tensor.dtype) in TYPES and tensor.layout is torch.strided and not tensor.is_meta


def write(path: str, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Write a file, beside its place first.

    Args:
        tensors: each as `can_write` wants it.
        about: text by name, for the header.
    """
    parts = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header, places = pack_header([(name, _name(part.dtype), tuple(part.shape)) for name, part in parts.items()], about)
    beside = f"{path}.{os.getpid()}.part"
    with open(beside, "wb") as file:
        file.write(header)
        for place in places:
            file.write(ctypes.string_at(parts[place.name].data_ptr(), place.end - place.start))
    os.replace(beside, path)


def read(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a file.

    Raises:
        Damaged: it is no such file, or a damaged one.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        data = bytearray(file.read())
    begin, places, _ = take_header(bytes(data), len(data))
    found: dict[str, torch.Tensor] = {}
    for place in places:
        dtype, count = getattr(torch, place.dtype), place.end - place.start
        if count:
            held = torch.frombuffer(data, dtype=torch.uint8, count=count, offset=begin + place.start)
            found[place.name] = held.clone().view(dtype).view(place.shape)
        else:
            found[place.name] = torch.zeros(place.shape, dtype=dtype)
    return found


def _name(dtype: torch.dtype) -> str:
    """As torch calls it."""
    return str(dtype).removeprefix("torch.")
