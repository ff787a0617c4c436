"""Canonical Huffman codes of at most 15 bits (16 for more than 32,768 symbols): the fastest to decode.

The data, where a coder is needed (see known.py): a byte, the number of streams, 1 or 4; the table of code lengths
(`lengths.pack`); for four streams the sizes of the first three as varints; then the streams. Each stream codes an equal
part of the symbols, one after the other (the last part may be shorter); a code's first bit is the lowest free one of a
byte; the last byte of a stream is filled up with zeros. Codes are canonical: shorter ones first, among equals the
smaller symbol first.
"""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders import known
from wellfit.slim.wfz.coders.bits import BitReader, BitWriter, read_varint, varint
from wellfit.slim.wfz.coders.engine import engine
from wellfit.slim.wfz.coders.input import checked
from wellfit.slim.wfz.coders.lengths import optimal_lengths, pack, unpack
from wellfit.slim.wfz.damage import Damaged

LIMIT = 15
LAST_LIMIT = 16
"""Only for alphabets of which more symbols occur than LIMIT bits can tell apart."""

FAST_LIMIT = 11
"""Codes as short as this are decoded from the innermost cache; taken where it costs under a thousandth."""

SEVERAL = 4
SEVERAL_FROM = 16384
"""From this many symbols on there are several streams: three sizes and the filled bytes are then a hundredth of it."""


def encode(symbols: NDArray[np.uint16], alphabet: int, shape: tuple[int, ...]) -> bytes:
    """Code the symbols.

    Args:
        symbols: prod(shape) numbers under `alphabet`.
        alphabet: 1 to 65,536.
        shape: used for its product only.

    Raises:
        WellfitError: the symbols do not fit the alphabet or the shape.
    """
    symbols = checked(symbols, alphabet, shape)
    if (data := known.encoded(symbols, alphabet)) is not None:
        return data
    counts = np.bincount(symbols)
    lengths = _good_lengths(counts)
    writer = BitWriter()
    pack(lengths.tolist(), writer)
    streams = SEVERAL if len(symbols) >= SEVERAL_FROM else 1
    codes = _codes(lengths)
    parts = [engine().huffman_encode(part, codes) for part in np.split(symbols, _starts(len(symbols), streams)[1:-1])]
    sizes = b"".join(varint(len(part)) for part in parts[:-1])
    return b"".join([bytes([streams]), writer.done(), sizes, *parts])


def decode(data: bytes | memoryview, alphabet: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The symbols, flat.

    Raises:
        Damaged: the data are not what `encode` gives for this alphabet and shape.
    """
    count = prod(shape)
    if (symbols := known.decoded(data, alphabet, count, "a Huffman-coded tensor")) is not None:
        return symbols
    streams = data[0]
    if streams not in (1, SEVERAL):
        raise Damaged(f"a Huffman-coded tensor has {streams} streams: 1 or {SEVERAL} were expected")
    if count > 8 * len(data):
        raise Damaged(f"a Huffman-coded tensor of {count} symbols has only {len(data)} bytes")
    reader = BitReader(data, 1)
    table, bits = _table(unpack(reader, alphabet))
    at = reader.next_byte()
    sizes = []
    for _ in range(streams - 1):
        size, at = read_varint(data, at)
        sizes.append(size)
    sizes.append(len(data) - at - sum(sizes))
    if sizes[-1] < 0:
        raise Damaged("the streams of a Huffman-coded tensor are longer than its data")
    return engine().huffman_decode(data, at, sizes, _starts(count, streams), table, bits)


def _starts(count: int, streams: int) -> list[int]:
    """Where each stream's symbols begin, and the end."""
    part = -(-count // streams)
    return [min(count, part * stream) for stream in range(streams + 1)]


def _good_lengths(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The best code lengths, or ones that are faster to decode and nearly as good."""
    used = np.count_nonzero(counts)
    best = optimal_lengths(counts, LIMIT if used <= 1 << LIMIT else LAST_LIMIT)
    if best.max() <= FAST_LIMIT or used > 1 << FAST_LIMIT:
        return best
    fast = optimal_lengths(counts, FAST_LIMIT)
    return fast if counts @ fast <= counts @ best * 1.001 else best


def _reversed(codes: NDArray[np.int64], widths: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Codes with their first bit in the lowest place."""
    turned = np.zeros_like(codes)
    for bit in range(LAST_LIMIT):
        turned |= (codes >> bit & 1) << (LAST_LIMIT - 1 - bit)
    return turned >> (LAST_LIMIT - widths)


def _codes(lengths: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """For each symbol its code with the first bit lowest, and from bit 16 on its length."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    widths = lengths[order].astype(np.int64)
    steps = 1 << (LAST_LIMIT - widths)
    firsts = (np.cumsum(steps) - steps) >> (LAST_LIMIT - widths)
    codes = np.zeros(len(lengths), np.uint32)
    codes[order] = _reversed(firsts, widths) | widths << 16
    return codes


def _table(numbers: list[int]) -> tuple[NDArray[np.uint32], int]:
    """What the next bits of a stream mean: symbol and, from bit 16 on, length; and how many bits are looked at.

    Raises:
        Damaged: the lengths do not make a complete code.
    """
    lengths = np.array(numbers, np.int64)
    bits = int(lengths.max())
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    share = 1 << (bits - lengths[order])
    if share.sum() != 1 << bits:
        raise Damaged(f"a Huffman table is {'over-full' if share.sum() > 1 << bits else 'incomplete'}")
    ordered = np.repeat(order | lengths[order] << 16, share)
    return ordered[_reversed(np.arange(1 << bits), bits)].astype(np.uint32), bits
