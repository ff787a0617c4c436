"""Tables of values: the distinct numbers of a codebook, or the scales of rows, in the shortest form that is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.numbers import Dtype, Patterns, floats_of
from wellfit.slim.wfz.varint import Cursor, signed, varint

TOP, HALF, SINGLE, GRID, INTEGERS = range(5)
"""Forms of a table: the top bytes of each pattern; float16; float32; a step times whole numbers; whole numbers."""

CONSECUTIVE = 0x80  # beside GRID and INTEGERS: each whole number is the one before and 1, stepping over a left-out 0

_FARTHEST = 1 << 62  # whole numbers are smaller, so that their distances and their written form have 63 bits
_MOST_STEPS = 1 << 20  # whole numbers of a grid: beyond, a grid is no shorter than the values


def pack_table(patterns: Patterns, dtype: Dtype, *, rising: bool, without_zero: bool = False) -> bytes:
    """Values as bytes: the number of the form, then what the form needs.

    Args:
        patterns: of the values, one-dimensional, at least one.
        rising: the values are distinct and in rising order, so that whole numbers and grids are possible.
        without_zero: 0 is known to be left out.
    """
    found = [_pack_top(patterns, dtype)]
    values = floats_of(patterns, dtype)
    for form, shorter in ((HALF, "<f2"), (SINGLE, "<f4")):
        if dtype.name in ("float32", "float64", "complex64", "complex128") and np.dtype(shorter).itemsize < dtype.width:
            with np.errstate(all="ignore"):
                narrow = values.astype(shorter)
            if np.array_equal(_widened(narrow, dtype), patterns):
                found.append(bytes([form]) + narrow.tobytes())
    if rising:
        found += _pack_whole(patterns, values, dtype, without_zero)
    return min(found, key=len)


def take_table(cursor: Cursor, count: int, dtype: Dtype, *, without_zero: bool = False) -> Patterns:
    """The patterns of `count` values, count >= 1. Damaged if they are no table of this type."""
    form = cursor.byte()
    consecutive = bool(form & CONSECUTIVE)
    if form == TOP:
        kept = cursor.byte()
        if not 1 <= kept <= dtype.width:
            raise Damaged(f"a table keeps {kept} bytes of values that have {dtype.width}")
        wide = np.frombuffer(cursor.take(count * kept), np.uint8).reshape(count, kept)
        whole = np.zeros((count, dtype.width), np.uint8)
        whole[:, dtype.width - kept :] = wide
        return whole.view(dtype.pattern_type).reshape(count)
    if form in (HALF, SINGLE):
        shorter = np.dtype("<f2" if form == HALF else "<f4")
        if dtype.mantissa <= (10 if form == HALF else 23):
            raise Damaged(f"a table of {dtype.name} is written in a type that is not shorter")
        return _widened(np.frombuffer(cursor.take(count * shorter.itemsize), shorter), dtype)
    if form & ~CONSECUTIVE == GRID and has_grid(dtype):
        step = np.frombuffer(cursor.take(4), "<f4")
        return on_grid(step, _take_rising(cursor, count, consecutive, without_zero), dtype)
    if form & ~CONSECUTIVE == INTEGERS and not dtype.is_floating:
        whole_numbers = _take_rising(cursor, count, consecutive, without_zero)
        narrow = whole_numbers.astype(dtype.pattern_type)
        if not np.array_equal(_whole(narrow, dtype), whole_numbers):
            raise Damaged(f"a table holds a whole number that is no {dtype.name}")
        return narrow
    raise Damaged(f"a table of {dtype.name} has the form {form}, which is not known for it")


def has_grid(dtype: Dtype) -> bool:
    """Whether values of this type can be a step times whole numbers."""
    return dtype.is_floating and dtype.width > 1


def on_grid(step: NDArray[Any], whole: NDArray[np.int64], dtype: Dtype) -> Patterns:
    """The patterns of step x whole number.

    The product of float64 numbers is rounded to float32 (not for float64), and this to the type where it is shorter:
    to the nearest, of two to the even one.
    """
    with np.errstate(all="ignore"):
        product = step.astype("<f8") * whole.astype("<f8")
        rounded: NDArray[Any] = product if dtype.mantissa == 52 else product.astype("<f4")
        if dtype.name == "float16":
            rounded = rounded.astype("<f2")
    patterns: Patterns = rounded.view(f"<u{rounded.dtype.itemsize}")
    if dtype.name == "bfloat16":
        even = (patterns + np.uint32(0x7FFF) + (patterns >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        patterns = np.where(np.isnan(rounded), np.uint16(0x7FC0), even.astype("<u2"))
    return patterns


def steps_of(smallest: NDArray[Any], largest: NDArray[Any]) -> list[NDArray[Any]]:
    """Steps that values may be whole multiples of, likely ones first.

    Args:
        smallest: the smallest distance of two values, float64, above 0; any shape.
        largest: the largest value by size, float64, of the same shape.

    The distance may be several steps, and is rounded as the values are. The largest value tells the step best: its
    rounding is a small part of it, so the step is among the float32 numbers beside largest / multiple.
    """
    found = []
    with np.errstate(all="ignore"):
        for divisor in (1, 2, 3):
            multiple = np.maximum(np.rint(largest / (smallest / divisor)), 1)
            step = (largest / multiple).astype("<f4")
            below, above = np.nextafter(step, np.float32(0)), np.nextafter(step, np.float32(np.inf))
            found += [step, below, above]
    return found


def _pack_top(patterns: Patterns, dtype: Dtype) -> bytes:
    whole = np.ascontiguousarray(patterns).view(np.uint8).reshape(-1, dtype.width)
    used = np.flatnonzero(whole.any(axis=0))
    kept = dtype.width - int(used[0]) if used.size else 1
    return bytes([TOP, kept]) + whole[:, dtype.width - kept :].tobytes()


def _widened(narrow: NDArray[Any], dtype: Dtype) -> Patterns:
    with np.errstate(all="ignore"):
        wide: Patterns = narrow.astype(f"<f{dtype.width}").view(dtype.pattern_type)
    return wide


def _pack_whole(patterns: Patterns, values: NDArray[Any], dtype: Dtype, without_zero: bool) -> list[bytes]:
    if not dtype.is_floating:
        if dtype.name == "uint64" and int(patterns[-1]) >= _FARTHEST:
            return []
        whole = _whole(patterns, dtype)
        in_reach = max(-int(whole[0]), int(whole[-1])) < _FARTHEST
        return [_pack_rising(INTEGERS, b"", whole, without_zero)] if in_reach else []
    if not has_grid(dtype) or not np.isfinite(values).all() or len(values) < 2:
        return []
    exact = values.astype("<f8")
    with np.errstate(all="ignore"):
        largest, smallest = np.abs(exact).max(), np.diff(exact).min()
        if smallest <= 0 or largest / smallest > _MOST_STEPS:
            return []
    for step in steps_of(np.array(smallest), np.array(largest)):
        with np.errstate(all="ignore"):
            whole = np.rint(exact / np.float64(step))
        if (np.abs(whole) < _FARTHEST).all() and np.array_equal(on_grid(step, whole.astype("<i8"), dtype), patterns):
            return [_pack_rising(GRID, step.tobytes(), whole.astype("<i8"), without_zero)]
    return []


def _whole(patterns: Patterns, dtype: Dtype) -> NDArray[np.int64]:
    kind = "i" if dtype.nature == "signed" else "u"
    return patterns.view(f"<{kind}{dtype.width}").astype(np.int64)


def _pack_rising(form: int, head: bytes, whole: NDArray[np.int64], without_zero: bool) -> bytes:
    first = signed(int(whole[0]))
    if np.array_equal(whole, _consecutive(int(whole[0]), len(whole), without_zero)):
        return bytes([form | CONSECUTIVE]) + head + first
    gaps = (int(b) - int(a) - 1 for a, b in zip(whole[:-1], whole[1:]))
    return bytes([form]) + head + first + b"".join(map(varint, gaps))


def _take_rising(cursor: Cursor, count: int, consecutive: bool, without_zero: bool) -> NDArray[np.int64]:
    number = cursor.signed()
    if consecutive:
        return _consecutive(number, count, without_zero)
    found = [number]
    for _ in range(count - 1):
        number += cursor.varint() + 1
        found.append(number)
    if number >= _FARTHEST:
        raise Damaged("a table holds a whole number that is too large")
    return np.array(found, np.int64)


def _consecutive(first: int, count: int, without_zero: bool) -> NDArray[np.int64]:
    whole = np.arange(first, first + count, dtype=np.int64)
    if without_zero and first < 0:
        whole[whole >= 0] += 1
    return whole
