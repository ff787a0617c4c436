"""Bits: every number is plus or minus a scale, one for the tensor or one for each first index. For binary weights."""

from __future__ import annotations

from math import prod

import numpy as np

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.numbers import Dtype, Patterns
from wellfit.slim.wfz.table import pack_table, take_table
from wellfit.slim.wfz.varint import Cursor

CODE = 3
NAME = "bits"

_BY_ROW = 1


def pack(patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
    """See `Kind`. Fits floats whose size is the same along each first index."""
    if not dtype.is_floating or patterns.size == 0 or patterns.ndim == 0:
        return None
    rows = patterns.reshape(patterns.shape[0], -1)
    top = patterns.dtype.type(1 << (8 * dtype.width - 1))
    scales = rows[:, :1] & ~top
    if not (scales[0] == rows[0] & ~top).all() or not ((rows & ~top) == scales).all():
        return None
    scales = scales.reshape(-1)
    by_row = bool((scales != scales[0]).any())
    signs = ((rows & top) != 0).astype(np.uint16).reshape(-1)
    table = pack_table(scales if by_row else scales[:1], dtype, rising=False)
    return bytes([by_row]) + table + streams.encode(signs, 2, patterns.shape, small=small)


def unpack(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
    """See `Kind`."""
    scales, stream = _take_scales(payload, dtype, shape)
    signs = streams.decode(stream, 2, shape).astype(dtype.pattern_type)
    signs <<= signs.dtype.type(8 * dtype.width - 1)
    return (signs.reshape(shape[0], -1) | scales.reshape(-1, 1)).reshape(shape)


def coder(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
    """See `Kind`."""
    return streams.coder_of(_take_scales(payload, dtype, shape)[1])


def _take_scales(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> tuple[Patterns, memoryview]:
    cursor = Cursor(payload, "a binary tensor")
    by_row = cursor.byte()
    if by_row > _BY_ROW or not dtype.is_floating or prod(shape) == 0 or not shape:
        raise Damaged(f"a tensor of {dtype.name} with the shape {shape} cannot be binary")
    return take_table(cursor, shape[0] if by_row else 1, dtype), cursor.rest()
