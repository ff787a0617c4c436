"""Context mixing: the smallest, by what is known of weight matrices; whole numbers only, so the same on every machine.

A weight is coded as one or more yes-or-no decisions: is it zero; if not, its sign, and the bits of its magnitude from
the highest on (symbols are values by size: the negative ones come first, the smallest magnitudes are in the middle).
For each decision some counters, each chosen by another part of what is known (its column and its row so far, its
neighbours, its kernel), and the shares of nonzeros in the column, the row and near by give probabilities. Three mixers
(logistic mixing as in Mahoney: Adaptive weighing of context models for lossless data compression, 2005) weigh them, and
what they say is averaged. All learn from every symbol; nothing is known at the start but what mixing.c says.

The data: nothing where all is known (no symbols, or an alphabet of one). Else a byte: 0, and the only symbol that
occurs follows as a varint; or 1, plus 2 where columns come before rows, plus 4 where a lag is given; then the number of
negative values and the lag as varints, then the stream.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.bits import read_varint, varint
from wellfit.slim.wfz.coders.engine import Matrix, engine
from wellfit.slim.wfz.coders.input import checked
from wellfit.slim.wfz.damage import Damaged

TURNED, LAGGED = 2, 4

LIKENESS = 0.3
"""Correlation of the densities of columns from which on a lag is worth its byte and its time."""

FARTHEST = 4096
"""The greatest lag that is looked for."""

MOST_PER_BYTE = 8 * 45427
"""Symbols that a byte can hold: a decision takes at least log2(65536 / 65535) bits. Four zeros more may be left out."""


def encode(symbols: NDArray[np.uint16], alphabet: int, shape: tuple[int, ...]) -> bytes:
    """Code the symbols.

    Args:
        symbols: prod(shape) numbers under `alphabet`; 0 is the most usual one (a pruned weight), the others are values
            by size.
        alphabet: 1 to 65,536.
        shape: rows, columns, and the rest as a kernel.

    Raises:
        WellfitError: the symbols do not fit the alphabet or the shape.
    """
    symbols = checked(symbols, alphabet, shape)
    if not len(symbols) or alphabet == 1:
        return b""
    if symbols.min() == symbols.max():
        return b"\0" + varint(int(symbols[0]))
    rows, columns, kernel = _matrix(shape)
    plain = _encoded(symbols, (rows, columns, kernel), alphabet, 0)
    if min(rows, columns) == 1:
        return plain
    turned = symbols.reshape(rows, columns, kernel).swapaxes(0, 1).reshape(-1)
    return min(plain, _encoded(turned, (columns, rows, kernel), alphabet, TURNED), key=len)


def decode(data: bytes | memoryview, alphabet: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The symbols, flat.

    Raises:
        Damaged: the data are not what `encode` gives for this alphabet and shape.
    """
    count = prod(shape)
    if not count or alphabet == 1:
        if len(data):
            raise Damaged(f"{len(data)} bytes are left over after a tensor coded by mixing that needs none")
        return np.zeros(count, np.uint16)
    if not len(data):
        raise Damaged("a tensor coded by mixing is empty")
    kind = data[0]
    if kind == 0:
        symbol, end = read_varint(data, 1)
        if symbol >= alphabet or end != len(data):
            raise Damaged(f"a tensor of one symbol has symbol {symbol} of {alphabet}, {len(data)} bytes")
        return np.full(count, symbol, np.uint16)
    if kind & 1 == 0 or kind > 1 + TURNED + LAGGED:
        raise Damaged(f"a tensor coded by mixing is of kind {kind}")
    negatives, at = read_varint(data, 1)
    lag, at = read_varint(data, at) if kind & LAGGED else (0, at)
    rows, columns, kernel = _matrix(shape)
    if kind & TURNED:
        rows, columns = columns, rows
    if negatives >= alphabet or lag >= max(columns * kernel, 1) or (kind & LAGGED and lag < 2):
        raise Damaged(f"a tensor coded by mixing has {negatives} negative values of {alphabet} and a lag of {lag}")
    if count > MOST_PER_BYTE * (len(data) - at + 4):
        raise Damaged(f"a tensor coded by mixing of {count} symbols has only {len(data)} bytes")
    symbols = engine().mixing_decode(data, at, Matrix((rows, columns, kernel), alphabet, negatives, lag))
    return symbols.reshape(rows, columns, kernel).swapaxes(0, 1).reshape(-1) if kind & TURNED else symbols


def _matrix(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns, weights in a kernel."""
    if len(shape) < 2:
        return 1, prod(shape), 1
    return shape[0], shape[1], prod(shape[2:])


def _encoded(symbols: NDArray[np.uint16], shape: tuple[int, int, int], alphabet: int, turned: int) -> bytes:
    negatives, lag = (alphabet - 1) // 2, _lag(symbols.reshape(shape[0], -1))
    head = bytes([1 | turned | (LAGGED if lag else 0)]) + varint(negatives) + (varint(lag) if lag else b"")
    return head + engine().mixing_encode(symbols, Matrix(shape, alphabet, negatives, lag))


def _lag(rows: NDArray[np.uint16]) -> int:
    """How far columns lie apart whose numbers of nonzeros are alike (a row of an image, channels); 0 if none are."""
    width = rows.shape[1]
    counts = np.count_nonzero(rows, axis=0).astype(np.float64)
    counts -= counts.mean()
    spread = counts @ counts
    if not spread or width < 6:
        return 0
    lags = range(2, min(width // 2, FARTHEST))
    likeness = [float(counts[lag:] @ counts[:-lag]) * width / (spread * (width - lag)) for lag in lags]
    best = int(np.argmax(likeness))
    return lags[best] if likeness[best] > LIKENESS else 0
