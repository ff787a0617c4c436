"""The twin of native/mixing.c: what each weight of a matrix is likely to be, from those before it."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.engine import Matrix
from wellfit.slim.wfz.coders.twin_mixer import FLAG, VALUE, Coder, Counters, Decisions, Mixer, probability

TABLE_BITS = 14
SETS = 320
FLAG_WEIGHT, VALUE_WEIGHT = 5120, 2560
_WORD = 0xFFFFFFFF


class Line:
    """What is known of a column, or of the row: weights before (nonzeros, their magnitudes, how many are positive)."""

    def __init__(self) -> None:
        self.nonzeros = self.magnitudes = self.positives = self.last = self.recent = 0


class Model:
    """Codes a matrix: with an encoder its symbols, with a decoder zeros, which it replaces."""

    def __init__(self, matrix: Matrix, coder: Coder) -> None:
        (self.rows, self.columns, self.kernel), alphabet, self.negatives, self.lag = matrix
        self.width = self.columns * self.kernel
        self.positives = alphabet - 1 - self.negatives
        self.depth = (max(self.negatives, self.positives) - 1).bit_length()
        self.lines = [Line() for _ in range(self.width)]
        self.kernels = [0] * self.columns
        self.decisions = Decisions(coder)
        self.order0 = 0
        self.flags: Counters = {}
        self.values: Counters = {}
        self.flag_mixers = [Mixer(FLAG_WEIGHT) for _ in range(SETS)]
        self.value_mixers = [Mixer(VALUE_WEIGHT) for _ in range(SETS)]

    def code(self, symbols: list[int]) -> list[int]:
        """The symbols that were coded."""
        self.symbols = symbols
        for at in range(len(symbols)):
            self.row, self.place = divmod(at, self.width)
            self.column, self.passed = divmod(self.place, self.kernel)
            if not self.place:
                self.along, self.before_last, self.recent = Line(), 0, 0
            if not self.passed:
                self.in_kernel = 0
            bit, level = self._flag(int(symbols[at] != 0))
            symbols[at] = self._value(symbols[at], level) if bit else 0
            self.recent = (self.recent << 1 | bit) & _WORD
            line = self.lines[self.place]
            line.recent = (line.recent << 1 | bit) & 255
        return symbols

    def _symbol(self, back: int, left: int) -> int:
        """The symbol so many rows up and places to the left; 0 outside."""
        place = self.place - left
        if back > self.row or not 0 <= place < self.width:
            return 0
        return self.symbols[(self.row - back) * self.width + place]

    def _density(self, nonzeros: int, n: int, overall: int) -> int:
        """The share of nonzeros among n, drawn towards the overall one, stretched."""
        p = (nonzeros * (65536 * 16) + overall * 24) // (n * 16 + 24)
        return self.decisions.stretch(max(1, min(65535, p)))

    def _near(self) -> tuple[int, int]:
        """Nonzeros, and weights, so far in the columns beside this one and a lag away."""
        nonzeros = rows = 0
        for reach in (1, -1, self.lag, -self.lag) if self.lag else (1, -1):
            other = self.place - reach
            if 0 <= other < self.width:
                nonzeros += self.lines[other].nonzeros
                rows += self.row + (reach > 0)
        return nonzeros, rows

    def _sides(self) -> int:
        """Which neighbours are not zero."""
        lag = self.lag
        sides = int(self._symbol(1, 0) != 0) | (self._symbol(1, 1) != 0) << 1 | (self._symbol(1, -1) != 0) << 2
        sides |= (self.recent & 3) << 3 | (self._symbol(2, 0) != 0) << 5
        if not lag:
            return sides | (self.recent >> 2 & 1) << 6
        return (
            sides
            | (self._symbol(0, lag) != 0) << 6
            | (self._symbol(1, lag) != 0) << 7
            | (self._symbol(1, -lag) != 0) << 8
        )

    def _flag(self, bit: int) -> tuple[int, int]:
        """Code whether a weight is not zero; also gives the level of its column's density."""
        line, along = self.lines[self.place], self.along
        overall = probability(self.order0, 32768)
        inputs = [
            self.decisions.stretch(overall),
            self._density(line.nonzeros, self.row, overall),
            self._density(along.nonzeros, self.place, overall),
            self._density(*self._near(), overall),
        ]
        of_column, of_row = _level(inputs[1], inputs[0]), _level(inputs[2], inputs[0])
        counts = min(line.nonzeros.bit_length(), 15) << 4 | min(along.nonzeros.bit_length(), 15)
        keys = [
            (0, line.recent & 63),
            (1, self._sides()),
            (2, of_column << 4 | of_row),
            (3, counts << 2 | self.recent & 1 | (self._symbol(1, 0) != 0) << 1),
        ]
        left, up, lagged = self._symbol(0, 1), self._symbol(1, 0), self._symbol(0, self.lag or 2)
        keys.append((4, self._in_row()))
        keys.append((5, self._size(left) << 6 | self._size(up) << 3 | self._size(lagged)))
        if self.kernel > 1:
            passed = self.passed
            inputs.append(self._density(self.kernels[self.column], self.row * self.kernel + passed, overall))
            inputs.append(self._density(self.in_kernel, passed, overall))
            keys.append((6, _level(inputs[4], inputs[0]) << 4 | of_row))
            keys.append((7, min(self.in_kernel, 15) << 6 | min(passed, 63)))
        chosen = (of_column, 16 + of_row, 32 + min(self.row.bit_length(), 15))
        mixers = [self.flag_mixers[index] for index in chosen]
        bit = self.decisions.decide(self.flags, keys, inputs, overall, mixers, FLAG, bit)
        self.order0 = self.decisions.updated(self.order0, bit, 1023, 32768)
        return bit, of_column

    def _in_row(self) -> int:
        """Which weights before this one in the row, beside it and a lag away, are not zero."""
        if not self.lag:
            return self.recent & 63
        apart = (self.lag - 1, self.lag, self.lag + 1, 2 * self.lag)
        return self.recent & 3 | 64 | sum((self._symbol(0, left) != 0) << 2 + bit for bit, left in enumerate(apart))

    def _sign(self, symbol: int) -> int:
        """-1, 0 or 1."""
        return (-1 if symbol - 1 < self.negatives else 1) if symbol else 0

    def _size(self, symbol: int) -> int:
        """0 for zero, then the bits of the magnitude and one more: 1 to 7."""
        value = symbol - 1 - self.negatives
        return 1 + min(6, max(value, -1 - value).bit_length()) if symbol else 0

    def _contexts(self) -> list[int]:
        """What a value may depend on."""
        above, before = self.lines[self.place], self.along
        left, up = self._symbol(0, 1), self._symbol(1, 0)
        lagged = self._symbol(0, self.lag) if self.lag else 0
        balances = [
            line.positives * 8 // line.nonzeros << 6 | (line.magnitudes * 4 // line.nonzeros).bit_length()
            if line.nonzeros
            else 1023
            for line in (above, before)
        ]
        signs = (
            40 + self._sign(left) + 3 * self._sign(up) + 9 * self._sign(lagged) + 27 * self._sign(self._symbol(2, 0))
        )
        pairs = [left << 16 | up, lagged << 16 | self.before_last]
        near = [1, 2, 3] + ([self.lag - 1, self.lag, self.lag + 1] if self.lag else [])
        row_signs = 8 + sum(self._sign(self._symbol(0, left)) for left in near)
        above_signs = 8 + sum(self._sign(self._symbol(1, left)) for left in range(-2, 3))
        around = row_signs << 5 | above_signs
        return [0, 0, before.last, above.last, *balances, signs, self.place, self.row, *pairs, around]

    def _value(self, symbol: int, column_level: int) -> int:
        """Code a symbol that is not 0: its sign, then its magnitude from the highest bit on."""
        contexts = self._contexts()
        value = symbol - 1 - self.negatives
        negative = int(self.negatives > 0)
        if self.negatives and self.positives:
            negative = self._value_bit(contexts, column_level, 0, 0, 0, int(value < 0))
        side, magnitude, known = (self.negatives, -1 - value, 0) if negative else (self.positives, value, 0)
        for depth in range(self.depth):
            place = self.depth - 1 - depth
            plain = known >> (place + 1) | 1 << depth
            if known | 1 << place < side:
                bit = magnitude >> place & 1
                known |= self._value_bit(contexts, column_level, 2 * plain + negative, plain, depth + 1, bit) << place
        symbol = 1 + self.negatives + (-1 - known if negative else known)
        self.before_last = self.along.last
        for line in (self.lines[self.place], self.along):
            line.nonzeros += 1
            line.positives += 1 - negative
            line.magnitudes += known
            line.last = symbol
        self.in_kernel += 1
        self.kernels[self.column] += 1
        return symbol

    def _value_bit(self, contexts: list[int], column_level: int, node: int, plain: int, depth: int, bit: int) -> int:
        """One decision of a value: the sign (node 0, depth 0) or a bit of the magnitude."""
        keys = []
        for index, context in enumerate(contexts):
            mixed = context * 0x9E3779B1 + (plain if index == 1 else node) * 0x85EBCA6B & _WORD
            mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & _WORD
            keys.append((index, mixed >> (32 - TABLE_BITS)))
        chosen = (depth, 32 + column_level + 16 * (depth == 0), 64 + min(plain, 255))
        mixers = [self.value_mixers[index] for index in chosen]
        parent = probability(self.values.get(keys[0], 0), 32768)
        return self.decisions.decide(self.values, keys, [], parent, mixers, VALUE, bit)


def coded(symbols: NDArray[np.uint16] | None, matrix: Matrix, coder: Coder) -> NDArray[np.uint16]:
    """Code the symbols; None to decode them."""
    start = [0] * prod(matrix.shape) if symbols is None else symbols.tolist()
    return np.array(Model(matrix, coder).code(start), np.uint16)


def _level(density: int, overall: int) -> int:
    """How a density compares with the overall one: 0 to 12."""
    return max(-832, min(831, density - overall)) + 832 >> 7
