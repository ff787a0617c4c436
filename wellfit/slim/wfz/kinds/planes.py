"""Planes: the bytes of dense numbers, those of equal place together, each place coded by itself.

Trained weights use few of the possible exponents, and all mantissas alike. So the sign of a float is moved behind its
mantissa, which leaves the (first eight) bits of the exponent alone in the top byte: about 2.7 bits of information
instead of 8. Lossless, for all types.
"""

from __future__ import annotations

from math import prod

import numpy as np

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.numbers import Dtype, Patterns
from wellfit.slim.wfz.varint import Cursor, varint

CODE = 1
NAME = "planes"


def pack(patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
    """See `Kind`."""
    if patterns.size == 0:
        return None
    turned = patterns.reshape(-1)
    if dtype.is_floating:
        one, rest = patterns.dtype.type(1), patterns.dtype.type(8 * dtype.width - 1)
        turned = (turned << one) | (turned >> rest)
    places = np.ascontiguousarray(turned).view(np.uint8).reshape(-1, dtype.width)
    out = []
    for place in reversed(range(dtype.width)):
        plane = streams.encode(places[:, place].astype(np.uint16), 256, (patterns.size,), small=small, plain=True)
        out += [varint(len(plane)), plane]
    return b"".join(out)


def unpack(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
    """See `Kind`."""
    cursor = Cursor(payload, "a tensor in planes")
    count = prod(shape)
    places = np.empty((count, dtype.width), np.uint8)
    for place in reversed(range(dtype.width)):
        places[:, place] = streams.decode_bytes(cursor.take(cursor.varint()), count)
    cursor.finish()
    turned: Patterns = places.reshape(-1).view(dtype.pattern_type)
    if dtype.is_floating:
        one, rest = turned.dtype.type(1), turned.dtype.type(8 * dtype.width - 1)
        turned = (turned >> one) | (turned << rest)
    return turned.reshape(shape)


def coder(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
    """See `Kind`. That of the top byte, the one that is worth coding."""
    cursor = Cursor(payload, "a tensor in planes")
    return streams.coder_of(cursor.take(cursor.varint()))
