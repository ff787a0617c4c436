"""Grid: whole numbers times a scale, one for the tensor or one for each first index. For quantised weights."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.kinds.codebook import zero_to_front
from wellfit.slim.wfz.numbers import DTYPE_NAMED, Dtype, Patterns, floats_of
from wellfit.slim.wfz.table import has_grid, on_grid, pack_table, steps_of, take_table
from wellfit.slim.wfz.varint import Cursor, signed, varint

CODE = 4
NAME = "grid"

_ZERO_FIRST, _BY_ROW = 1, 2
_SCALES = DTYPE_NAMED["float32"]
_LARGEST = 1 << 15  # whole numbers are smaller: quantised weights have 4 or 8 bits, seldom 16
_SLICE = 1 << 16  # numbers made at a time, for the products take several times their memory
_FEW, _MANY = 256, 1 << 14  # whole numbers in use, and numbers that are made of them
_INF = np.float32(np.inf)
_TRIED = 1 << 12  # numbers that must be on a grid before all are looked at


def pack(patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
    """See `Kind`. Fits finite floats for which a scale is found that gives back every number to the last bit."""
    if not has_grid(dtype) or patterns.size == 0:
        return None
    for rows in (1, patterns.shape[0] if patterns.ndim else 1):
        by_row = patterns.reshape(rows, -1)
        if by_row.size > _TRIED and _on_grids(by_row[:4, : _TRIED // 4], dtype) is None:
            continue
        found = _on_grids(by_row, dtype)
        if found is not None:
            return _pack(found[0], found[1], patterns.shape, small)
    return None


def _pack(scales: NDArray[np.float32], whole: NDArray[np.int64], shape: tuple[int, ...], small: bool) -> bytes | None:
    low, high = int(whole.min()), int(whole.max())
    alphabet = high - low + 1
    if len(scales) == 1 and alphabet <= _FEW and whole.size >= _MANY:
        return None  # a codebook is as small but for its table, and need not be tried twice
    symbols = (whole - low).astype(np.uint16).reshape(-1)
    flags = _BY_ROW if len(scales) > 1 else 0
    if low < 0 <= high and int(np.bincount(symbols).argmax()) == -low:
        flags |= _ZERO_FIRST
        symbols = zero_to_front(symbols, -low)
    table = pack_table(scales.view("<u4"), _SCALES, rising=False)
    stream = streams.encode(symbols, alphabet, shape, small=small)
    return bytes([flags]) + table + signed(low) + varint(alphabet) + stream


def unpack(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
    """See `Kind`."""
    flags, scales, low, alphabet, stream = _take_head(payload, dtype, shape)
    symbols = streams.decode(stream, alphabet, shape)
    whole = np.arange(low, low + alphabet, dtype=np.int64)
    if flags & _ZERO_FIRST:
        whole = np.concatenate([np.zeros(1, np.int64), whole[whole != 0]])
    if len(scales) == 1:
        return on_grid(scales, whole, dtype)[symbols].reshape(shape)
    rows = symbols.reshape(len(scales), -1)
    patterns = np.empty(rows.shape, dtype.pattern_type)
    step = max(1, _SLICE // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        patterns[part] = on_grid(scales[part, None], whole[rows[part]], dtype)
    return patterns.reshape(shape)


def coder(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
    """See `Kind`."""
    return streams.coder_of(_take_head(payload, dtype, shape)[-1])


def _take_head(
    payload: memoryview, dtype: Dtype, shape: tuple[int, ...]
) -> tuple[int, NDArray[np.float32], int, int, memoryview]:
    cursor = Cursor(payload, "a tensor on a grid")
    flags = cursor.byte()
    if flags > _ZERO_FIRST | _BY_ROW or not has_grid(dtype) or prod(shape) == 0 or (flags & _BY_ROW and not shape):
        raise Damaged(f"a tensor of {dtype.name} with the shape {shape} cannot be on a grid of form {flags}")
    scales = take_table(cursor, shape[0] if flags & _BY_ROW else 1, _SCALES).view("<f4")
    low, alphabet = cursor.signed(), cursor.varint()
    if not 1 <= alphabet <= streams.MOST_SYMBOLS or abs(low) > streams.MOST_SYMBOLS:
        raise Damaged(f"a grid of {alphabet} whole numbers from {low} is too large")
    if flags & _ZERO_FIRST and not low < 0 <= low + alphabet - 1:
        raise Damaged("a grid is said to begin with 0, but has none below it")
    return flags, scales, low, alphabet, cursor.rest()


def _on_grids(rows: Patterns, dtype: Dtype) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """The scale of each row and the whole numbers, or None where a row is on no grid."""
    with np.errstate(all="ignore"):  # of numbers that are none, some cannot be made wider
        values = floats_of(rows, dtype).astype("<f8")
    if not np.isfinite(values).all():
        return None
    with np.errstate(all="ignore"):
        largest, smallest = np.abs(values).max(axis=1), _smallest_distances(values)
        if (smallest * _LARGEST < largest).any():
            return None
    scales = np.zeros(len(rows), "<f4")
    whole = np.zeros(rows.shape, np.int64)
    left = np.flatnonzero((rows != 0).any(axis=1))  # a row of zeros keeps the scale 0
    for candidate in [*steps_of(smallest, largest), *_usual_steps(largest)]:
        step = candidate[left, None]
        with np.errstate(all="ignore"):
            multiples = np.rint(values[left] / step.astype("<f8"))
        multiples[~(np.abs(multiples) < _LARGEST)] = 0
        exact = (on_grid(step, multiples.astype(np.int64), dtype) == rows[left]).all(axis=1)
        scales[left[exact]] = candidate[left[exact]]
        whole[left[exact]] = multiples[exact].astype(np.int64)
        left = left[~exact]
        if not left.size:
            return scales, whole
    return None if left.size else (scales, whole)


def _usual_steps(largest: NDArray[Any]) -> list[NDArray[Any]]:
    """Those of quantised weights, whose largest is the largest whole number of 8, 4 or so bits: of few numbers the
    smallest distance may be any number of steps."""
    with np.errstate(all="ignore"):
        steps = [(largest / (2**bits - 1)).astype("<f4") for bits in range(1, 8)]
        return [near for step in steps for near in (step, np.nextafter(step, np.float32(0)), np.nextafter(step, _INF))]


def _smallest_distances(values: NDArray[Any]) -> NDArray[Any]:
    """Of unequal values of each row, 0 taken as one of them; infinite for a row of zeros."""
    with_zero = np.concatenate([values, np.zeros((len(values), 1))], axis=1)
    with_zero.sort(axis=1)
    distances = np.diff(with_zero, axis=1)
    distances[distances == 0] = np.inf
    smallest: NDArray[Any] = distances.min(axis=1)
    return smallest
