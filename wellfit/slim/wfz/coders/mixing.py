"""Context mixing: the smallest, by what is known of weight matrices; whole numbers only, so the same on every machine.

A weight is coded as one or more yes-or-no decisions: is it zero; if not, its sign, and the bits of its magnitude from
the highest on (symbols are values by size: the negative ones come first, the smallest magnitudes are in the middle).
For each decision some counters, each chosen by another part of what is known (its column and its row so far, its
neighbours, its kernel), and the shares of nonzeros in the column, the row and near by give probabilities. Three mixers
(logistic mixing as in Mahoney: Adaptive weighing of context models for lossless data compression, 2005) weigh them, and
what they say is averaged. All learn from every symbol; nothing is known at the start but what mixing.c says.

The data, where a coder is needed (see known.py): a byte, 1, plus 2 where columns come before rows, plus 4 where a lag
is given, plus 8 where the number of negative values is (else it is half of the values); these follow as varints, the
lag first, then the stream.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders import known
from wellfit.slim.wfz.coders.bits import read_varint, varint
from wellfit.slim.wfz.coders.engine import Matrix, engine
from wellfit.slim.wfz.coders.input import checked
from wellfit.slim.wfz.damage import Damaged

TURNED, LAGGED, UNEVEN = 2, 4, 8

LIKENESS = 0.3
"""Correlation of the densities of columns from which on a lag is worth its byte and its time."""

TALL, FARTHEST, WORK = 16, 4096, 1 << 26
"""A lag is looked for where columns are so long, up to so far, with so many multiplications."""

LEAST, LARGE = 500, 1 << 22
"""How many kept weights make it worth to look for the number of negative values, and in how many it takes too long."""

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
    if (data := known.encoded(symbols, alphabet)) is not None:
        return data
    rows, columns, kernel = _matrix(shape)
    best = _Tried.of(symbols, Matrix((rows, columns, kernel), alphabet, _half(alphabet), 0), 0)
    if min(rows, columns) > 1:
        turned = symbols.reshape(rows, columns, kernel).swapaxes(0, 1).reshape(-1)
        matrix = Matrix((columns, rows, kernel), alphabet, _half(alphabet), 0)
        best = min(best, _Tried.of(turned, matrix, TURNED), key=lambda tried: len(tried.data))
    if np.count_nonzero(symbols) >= LEAST and len(symbols) <= LARGE:
        best = best.with_best_negatives()
    return best.data


def decode(data: bytes | memoryview, alphabet: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The symbols, flat.

    Raises:
        Damaged: the data are not what `encode` gives for this alphabet and shape.
    """
    count = prod(shape)
    if (symbols := known.decoded(data, alphabet, count, "a tensor coded by mixing")) is not None:
        return symbols
    kind = data[0]
    if kind & 1 == 0 or kind > 1 + TURNED + LAGGED + UNEVEN:
        raise Damaged(f"a tensor coded by mixing is of kind {kind}")
    lag, at = read_varint(data, 1) if kind & LAGGED else (0, 1)
    negatives, at = read_varint(data, at) if kind & UNEVEN else (_half(alphabet), at)
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


def _half(alphabet: int) -> int:
    """The negative values, where nothing is said."""
    return (alphabet - 1) // 2


class _Tried(NamedTuple):
    """One way to encode a tensor."""

    symbols: NDArray[np.uint16]
    matrix: Matrix
    turned: int
    data: bytes

    @classmethod
    def of(cls, symbols: NDArray[np.uint16], matrix: Matrix, turned: int) -> _Tried:
        """Encode with the lag that fits best."""
        return cls(symbols, matrix._replace(lag=_lag(symbols.reshape(matrix.shape[0], -1))), turned, b"").again()

    def again(self, more: int = 0) -> _Tried:
        """Encode with so many more negative values."""
        matrix = self.matrix._replace(negatives=self.matrix.negatives + more)
        uneven = UNEVEN if matrix.negatives != _half(matrix.alphabet) else 0
        head = bytes([1 | self.turned | (LAGGED if matrix.lag else 0) | uneven])
        head += (varint(matrix.lag) if matrix.lag else b"") + (varint(matrix.negatives) if uneven else b"")
        return self._replace(matrix=matrix, data=head + engine().mixing_encode(self.symbols, matrix))

    def with_best_negatives(self) -> _Tried:
        """Go up or down from here as long as the data get smaller: the coder does not know the values' signs."""
        best = self
        for step in (-1, 1):
            while 0 <= best.matrix.negatives + step < best.matrix.alphabet:
                tried = best.again(step)
                if len(tried.data) >= len(best.data):
                    break
                best = tried
        return best


def _lag(rows: NDArray[np.uint16]) -> int:
    """How far columns lie apart whose numbers of nonzeros are alike (a row of an image, channels); 0 if none are."""
    height, width = rows.shape
    if height < TALL or width < 6:
        return 0
    counts = np.count_nonzero(rows, axis=0).astype(np.float64)
    counts -= counts.mean()
    spread = counts @ counts
    if not spread:
        return 0
    lags = range(2, min(width // 2, FARTHEST, max(3, WORK // width)))
    likeness = [float(counts[lag:] @ counts[:-lag]) * width / (spread * (width - lag)) for lag in lags]
    best = int(np.argmax(likeness))
    return lags[best] if likeness[best] > LIKENESS else 0
