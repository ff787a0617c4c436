"""Frequencies for rANS: counts rounded so that their table takes few bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.bits import BitReader, BitWriter
from wellfit.slim.wfz.coders.lengths import pack, unpack
from wellfit.slim.wfz.damage import Damaged

SMALLEST, LARGEST = 9, 16
"""The frequencies of a table sum up to 2 ** 9 to 2 ** 16."""

STEPS = 256
"""How finely the shares are lowered until their rounded frequencies fit."""

MANY = 1024
"""With a larger alphabet than this only one way to round is tried: the table is written in Python."""


class Rounded(NamedTuple):
    """Frequencies that sum up to 2 ** bits, all but one of them written with their highest 1 + `digits` bits.

    That one is at `rest`: it has what the others leave, and no other one has a greater bit length.
    """

    frequencies: NDArray[np.int64]
    rest: int
    bits: int
    digits: int


def chosen(counts: NDArray[np.int64]) -> Rounded:
    """The rounding with which table and symbols together take the fewest bits; at least two symbols occur."""
    return min(_candidates(counts), key=lambda rounded: _cost(counts, rounded))


def _candidates(counts: NDArray[np.int64]) -> Iterator[Rounded]:
    used = np.count_nonzero(counts)
    enough = max(SMALLEST, int(used - 1).bit_length())
    if len(counts) > MANY:
        tries = [(min(LARGEST, enough + 2), 4)]
    else:
        tries = [(max(enough, bits), digits) for bits in (10, 12, 14) for digits in (1, 2, 3, 4, 6)]
    for bits, digits in dict.fromkeys(tries):
        yield _rounded(counts, bits, digits)


def _rounded(counts: NDArray[np.int64], bits: int, digits: int) -> Rounded:
    """Frequencies near the counts' shares, a little under them where they do not fit."""
    top, total = int(counts.argmax()), int(counts.sum())
    for part in range(STEPS, -1, -1):
        shares = np.maximum(counts.astype(np.float64) * (part << bits) / (STEPS * total), 1)
        units = 2.0 ** np.maximum(np.floor(np.log2(shares)) - digits, 0)
        frequencies = np.where(counts > 0, np.rint(shares / units) * units, 0).astype(np.int64)
        frequencies[top] = 0
        rest = (1 << bits) - int(frequencies.sum())
        if rest > 0 and rest.bit_length() >= int(frequencies.max()).bit_length():
            break
    frequencies[top] = rest
    return Rounded(frequencies, top, bits, digits)


def _cost(counts: NDArray[np.int64], rounded: Rounded) -> float:
    used = counts > 0
    symbols = float(counts[used] @ (rounded.bits - np.log2(rounded.frequencies[used])))
    writer = BitWriter()
    write(rounded, writer)
    return symbols + len(writer)


def write(rounded: Rounded, writer: BitWriter) -> None:
    """The bit length of each frequency (`lengths.pack`), then the bits after the first one, at most `digits`.

    Of the one at `rest` only the length is written, and which one it is of those with that length.
    """
    frequencies = rounded.frequencies.tolist()
    widths = [frequency.bit_length() for frequency in frequencies]
    pack(widths, writer)
    writer.add_gamma(_longest(widths).index(rounded.rest) + 1)
    for symbol, (frequency, width) in enumerate(zip(frequencies, widths)):
        digits = min(width - 1, rounded.digits)
        if digits > 0 and symbol != rounded.rest:
            writer.add(frequency >> (width - 1 - digits) & ((1 << digits) - 1), digits)


def read(reader: BitReader, bits: int, digits: int, alphabet: int) -> NDArray[np.int64]:
    """What `write` wrote.

    Raises:
        Damaged: the frequencies do not sum up, or only one symbol has one.
    """
    widths = unpack(reader, alphabet)
    longest = _longest(widths)
    rest = longest[reader.take_gamma(len(longest)) - 1]
    frequencies = [0] * len(widths)
    for symbol, width in enumerate(widths):
        if width and symbol != rest:
            kept = min(width - 1, digits)
            frequencies[symbol] = ((1 << kept) | reader.take(kept)) << (width - 1 - kept)
    frequencies[rest] = left = (1 << bits) - sum(frequencies)
    if left.bit_length() != widths[rest] or left < 1 or left == 1 << bits:
        raise Damaged(f"the frequencies of an rANS-coded tensor do not sum up to {1 << bits}")
    return np.array(frequencies, np.int64)


def _longest(widths: list[int]) -> list[int]:
    """The symbols whose frequencies have the most bits."""
    longest = max(widths)
    return [symbol for symbol, width in enumerate(widths) if width == longest]
