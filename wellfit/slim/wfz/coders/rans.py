"""rANS with static frequencies: within a thousandth of the order-0 entropy, and fast to decode.

Duda: Asymmetric numeral systems (2013), in the form of Giesen: Interleaved entropy coders (2014).

The data, where a coder is needed (see known.py): a byte, its lowest two bits 1 or 2 for one or four states, the next
three the bits of the frequencies' sum less 9, the highest three the digits of the frequencies; their table
(`frequencies.write`); then the states' first values (32 bits each) and the words of 16 bits, all lowest byte first.
Symbol i is decoded by state i modulo their number; a state below 2 ** 16 takes the next word. At the end all states are
2 ** 16.
"""

from __future__ import annotations

from math import log2, prod

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders import frequencies, known
from wellfit.slim.wfz.coders.bits import BitReader, BitWriter
from wellfit.slim.wfz.coders.engine import engine
from wellfit.slim.wfz.coders.input import checked
from wellfit.slim.wfz.damage import Damaged

STATES = {1: 1, 2: 4}
SEVERAL_FROM = 8192
"""From this many symbols on there are four states: 12 bytes more."""


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
    rounded = frequencies.chosen(counts)
    kind = 2 if len(symbols) >= SEVERAL_FROM else 1
    writer = BitWriter()
    writer.add(kind | (rounded.bits - frequencies.SMALLEST) << 2 | rounded.digits << 5, 8)
    frequencies.write(rounded, writer)
    table = (rounded.frequencies | (np.cumsum(rounded.frequencies) - rounded.frequencies) << 16).astype(np.uint32)
    return writer.done() + engine().rans_encode(symbols, table, rounded.bits, STATES[kind])


def decode(data: bytes | memoryview, alphabet: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The symbols, flat.

    Raises:
        Damaged: the data are not what `encode` gives for this alphabet and shape.
    """
    count = prod(shape)
    if (symbols := known.decoded(data, alphabet, count, "an rANS-coded tensor")) is not None:
        return symbols
    kind, bits, digits = data[0] & 3, (data[0] >> 2 & 7) + frequencies.SMALLEST, data[0] >> 5
    if kind not in STATES:
        raise Damaged(f"an rANS-coded tensor is of kind {kind}: 1 or 2 were expected")
    reader = BitReader(data, 1)
    table = frequencies.read(reader, bits, digits, alphabet)
    at = reader.next_byte()
    if count * (bits - log2(table.max())) > 8 * (len(data) - at):
        raise Damaged(f"an rANS-coded tensor of {count} symbols has only {len(data)} bytes")
    return engine().rans_decode(data, at, count, _slots(table), bits, STATES[kind])


def _slots(table: NDArray[np.int64]) -> NDArray[np.uint64]:
    """For each place its symbol, from bit 16 on its frequency, from bit 32 on how far into the symbol the place is."""
    first = np.cumsum(table) - table
    entries = np.arange(len(table)) | table << 16
    slots = np.repeat(entries, table) + (np.arange(table.sum()) - np.repeat(first, table) << 32)
    return np.asarray(slots, np.uint64)
