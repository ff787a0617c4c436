"""Sparse: where the numbers are not 0, and those numbers dense. For pruned weights that share no values."""

from __future__ import annotations

from math import prod

import numpy as np

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.kinds import planes, raw
from wellfit.slim.wfz.numbers import Dtype, Patterns
from wellfit.slim.wfz.varint import Cursor, varint

CODE = 5
NAME = "sparse"

_INNER = {kind.CODE: kind for kind in (raw, planes)}
_LEAST_ZEROS = 1 / 16  # with fewer, planes alone are as small


def pack(patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
    """See `Kind`. Fits where enough numbers are 0 and some are not."""
    flat = patterns.reshape(-1)
    others = flat[flat != 0]
    if not 0 < others.size <= (1 - _LEAST_ZEROS) * flat.size:
        return None
    mask = streams.encode((flat != 0).astype(np.uint16), 2, patterns.shape, small=small)
    packed = [(code, kind.pack(others, dtype, small)) for code, kind in _INNER.items()]
    inner: bytes = min((bytes([code]) + data for code, data in packed if data is not None), key=len)
    return varint(others.size) + varint(len(mask)) + mask + inner


def unpack(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
    """See `Kind`."""
    cursor = Cursor(payload, "a sparse tensor")
    count = cursor.varint()
    if not 0 < count <= prod(shape):
        raise Damaged(f"{count} of {prod(shape)} numbers are said not to be 0")
    mask = streams.decode(cursor.take(cursor.varint()), 2, shape).astype(np.bool_)
    if np.count_nonzero(mask) != count:
        raise Damaged(f"{np.count_nonzero(mask)} numbers are not 0, but {count} are said to be")
    kind = _INNER.get(cursor.byte())
    if kind is None:
        raise Damaged("the numbers of a sparse tensor are stored in no known way")
    patterns = np.zeros(prod(shape), dtype.pattern_type)
    patterns[mask] = kind.unpack(cursor.rest(), dtype, (count,))
    return patterns.reshape(shape)


def coder(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
    """See `Kind`. That of the places."""
    cursor = Cursor(payload, "a sparse tensor")
    cursor.varint()
    return streams.coder_of(cursor.take(cursor.varint()))
