"""Codebook: a table of the distinct values, and for each number which of them it is.

For weights that share values, sparse or dense, and for whole numbers. Symbols are in the order of the values, so that
neighbouring symbols mean neighbouring values; where 0 is the most usual value it is symbol 0 instead.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.numbers import Dtype, Patterns, keys_of, patterns_of_keys
from wellfit.slim.wfz.table import pack_table, take_table
from wellfit.slim.wfz.varint import Cursor, varint

CODE = 2
NAME = "codebook"

_ZERO_FIRST = 1
_FEW = 256  # distinct values that are always worth a try; more of them only if there are twice as many numbers
_MANY = 1 << 14  # numbers, beside which a table of few values is small
_SAMPLE = 1 << 16  # numbers of a large tensor that are looked at before all are


def pack(patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
    """See `Kind`. Fits where there are at most 65,536 distinct values, and not too many for the numbers there are."""
    if patterns.size == 0 or _many_are_distinct(patterns):
        return None
    keys = keys_of(patterns.reshape(-1), dtype)
    values, counts = _distinct(keys)
    if len(values) > min(streams.MOST_SYMBOLS, max(_FEW, patterns.size // 2)):
        return None
    symbols = np.searchsorted(values, keys).astype(np.uint16)
    table = patterns_of_keys(values, dtype)
    zero = np.flatnonzero(table == 0)
    zero_first = zero.size > 0 and len(values) > 1 and counts[zero[0]] == counts.max()
    if zero_first:
        symbols = zero_to_front(symbols, int(zero[0]))
        table = np.delete(table, zero[0])
    head = bytes([_ZERO_FIRST if zero_first else 0]) + varint(len(values))
    packed = pack_table(table, dtype, rising=True, without_zero=bool(zero_first))
    return head + packed + streams.encode(symbols, len(values), patterns.shape, small=small)


def unpack(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
    """See `Kind`."""
    table, stream = _take_table(payload, dtype)
    symbols = streams.decode(stream, len(table), shape)
    if prod(shape) == 0:
        raise Damaged("an empty tensor has a codebook")
    return table[symbols].reshape(shape)


def coder(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
    """See `Kind`."""
    return streams.coder_of(_take_table(payload, dtype)[1])


def has_few_values(payload: bytes, count: int) -> bool:
    """Whether `count` numbers have so few values that neither planes nor positions of the others can be smaller."""
    return count >= _MANY and Cursor(memoryview(payload)[1:], "a codebook").varint() <= _FEW


def zero_to_front(symbols: streams.Symbols, zero: int) -> streams.Symbols:
    """Symbols in the order of their values, but with the one that stands for 0 before all others."""
    order = np.arange(streams.MOST_SYMBOLS, dtype=np.uint32)
    order[:zero] += 1
    order[zero] = 0
    return order.astype(np.uint16)[symbols]


def _take_table(payload: memoryview, dtype: Dtype) -> tuple[Patterns, memoryview]:
    cursor = Cursor(payload, "a codebook")
    flags, count = cursor.byte(), cursor.varint()
    if flags & ~_ZERO_FIRST or not 1 <= count - flags <= streams.MOST_SYMBOLS:
        raise Damaged(f"a codebook of {count} values is said to be of form {flags}")
    table = take_table(cursor, count - flags, dtype, without_zero=flags == _ZERO_FIRST)
    if flags == _ZERO_FIRST:
        table = np.concatenate([np.zeros(1, table.dtype), table])
    return table, cursor.rest()


def _distinct(keys: Patterns) -> tuple[Patterns, NDArray[Any]]:
    if keys.dtype.itemsize <= 2:
        counts = np.bincount(keys, minlength=1)
        values = np.flatnonzero(counts)
        return values.astype(keys.dtype), counts[values]
    return np.unique(keys, return_counts=True)


def _many_are_distinct(patterns: Patterns) -> bool:
    """Whether a sample shows that a tensor has too many distinct values, without sorting all of it."""
    if patterns.size < 4 * _SAMPLE:
        return False
    sample = patterns.reshape(-1)[:: patterns.size // _SAMPLE]
    return len(np.unique(sample)) > _SAMPLE // 2
