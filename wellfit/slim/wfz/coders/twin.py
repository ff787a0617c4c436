"""The twin of the C library in numpy and Python: the same bits, slowly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.engine import Matrix
from wellfit.slim.wfz.coders.twin_mixing import coded
from wellfit.slim.wfz.coders.twin_range_coder import RangeDecoder, RangeEncoder
from wellfit.slim.wfz.damage import Damaged

PART = 1 << 16
"""Symbols, or bytes of a stream, that are spread out at once."""

LOW = 1 << 16
"""The least value of a state of rANS."""


class Twin:
    """See `engine.Engine`."""

    name = "twin"

    def huffman_encode(self, symbols: NDArray[np.uint16], codes: NDArray[np.uint32]) -> bytes:
        """See `Engine.huffman_encode`."""
        chosen = codes[symbols]
        lengths = (chosen >> 16).astype(np.int64)
        flags = np.zeros(int(lengths.sum()), np.uint8)
        start = 0
        for first in range(0, len(symbols), PART):
            part, widths = chosen[first : first + PART], lengths[first : first + PART]
            ends = np.cumsum(widths)
            place = np.arange(ends[-1]) - np.repeat(ends - widths, widths)
            flags[start : start + len(place)] = np.repeat(part, widths) >> place & 1
            start += len(place)
        return np.packbits(flags, bitorder="little").tobytes()

    def huffman_decode(
        self,
        data: bytes | memoryview,
        at: int,
        sizes: list[int],
        starts: list[int],
        table: NDArray[np.uint32],
        bits: int,
    ) -> NDArray[np.uint16]:
        """See `Engine.huffman_decode`."""
        out = np.empty(starts[-1], np.uint16)
        for size, first, last in zip(sizes, starts, starts[1:]):
            _huffman_stream(np.frombuffer(data, np.uint8, size, at), table, bits, out[first:last])
            at += size
        return out

    def rans_encode(self, symbols: NDArray[np.uint16], table: NDArray[np.uint32], bits: int, states: int) -> bytes:
        """See `Engine.rans_encode`."""
        now = [LOW] * states
        words: list[int] = []
        frequencies, before = (table & 0xFFFF).tolist(), (table >> 16).tolist()
        turn = len(symbols)
        for symbol in reversed(symbols.tolist()):
            turn -= 1
            state, frequency = now[turn % states], frequencies[symbol]
            if state >= frequency << (32 - bits):
                words.append(state & 0xFFFF)
                state >>= 16
            now[turn % states] = (state // frequency << bits) + state % frequency + before[symbol]
        return np.array(now, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()

    def rans_decode(
        self, data: bytes | memoryview, at: int, count: int, slots: NDArray[np.uint64], bits: int, states: int
    ) -> NDArray[np.uint16]:
        """See `Engine.rans_decode`."""
        size = len(data) - at - 4 * states
        if size < 0 or size % 2:
            raise Damaged("an rANS-coded tensor is cut off")
        now = np.frombuffer(data, "<u4", states, at).tolist()
        if min(now) < LOW:
            raise Damaged("an rANS-coded tensor starts with an impossible state")
        words = iter(np.frombuffer(data, "<u2", size // 2, at + 4 * states).tolist())
        places, mask = slots.tolist(), (1 << bits) - 1
        out = np.empty(count, np.uint16)
        for turn in range(count):
            state = now[turn % states]
            slot = places[state & mask]
            out[turn] = slot & 0xFFFF
            state = (slot >> 16 & 0xFFFF) * (state >> bits) + (slot >> 32)
            if state < LOW:
                word = next(words, None)
                if word is None:
                    raise Damaged("an rANS-coded tensor is cut off")
                state = state << 16 | word
            now[turn % states] = state
        if now != [LOW] * states or next(words, None) is not None:
            raise Damaged("an rANS-coded tensor does not end where its symbols do")
        return out

    def mixing_encode(self, symbols: NDArray[np.uint16], matrix: Matrix) -> bytes:
        """See `Engine.mixing_encode`."""
        coder = RangeEncoder()
        coded(symbols, matrix, coder)
        return coder.done()

    def mixing_decode(self, data: bytes | memoryview, at: int, matrix: Matrix) -> NDArray[np.uint16]:
        """See `Engine.mixing_decode`."""
        coder = RangeDecoder(bytes(data[at:]))
        symbols = coded(None, matrix, coder)
        coder.done()
        return symbols


def _huffman_stream(data: NDArray[np.uint8], table: NDArray[np.uint32], bits: int, out: NDArray[np.uint16]) -> None:
    """Decode one stream into `out`: the code at every bit is looked up at once, then followed from code to code."""
    padded = np.concatenate((data, np.zeros(3, np.uint8))).astype(np.uint32)
    windows = padded[:-3] | padded[1:-2] << 8 | padded[2:-1] << 16
    done, at, end = 0, 0, 8 * len(data)
    for first in range(0, len(data), PART):
        part = windows[first : first + PART, None] >> np.arange(8, dtype=np.uint32)
        entries = table[part.reshape(-1) & ((1 << bits) - 1)].tolist()
        limit = 8 * first + len(entries)
        while at < limit and done < len(out):
            entry = entries[at - 8 * first]
            out[done] = entry & 0xFFFF
            at += entry >> 16
            done += 1
    if done < len(out) or at > end:
        raise Damaged("a stream of a Huffman-coded tensor is cut off")
    if end - at >= 8 or (at & 7 and int(data[-1]) >> (at & 7)):
        raise Damaged("a stream of a Huffman-coded tensor does not end where its symbols do")
