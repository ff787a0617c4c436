"""A decoder of `.wfz` files written from docs/wfz.md alone, in plain Python, slow and without checks.

It shares no line with wellfit: what it reads, the page describes. It knows all but the model of the mixing coder.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from math import prod
from typing import Any

WIDTHS = [1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 4, 8, 1, 1]  # of patterns, by type
FLOATS = {9: "e", 11: "f", 12: "d", 13: "f", 14: "d"}
BFLOAT16 = 10


class Mixed(Exception):
    """A stream is coded by mixing."""


class Reader:
    """Bytes from the front to the back."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    def signed(self) -> int:
        number = self.varint()
        return -(number + 1) // 2 if number % 2 else number // 2


@dataclass
class Tensor:
    """What the header says."""

    name: str
    kind: int
    type: int = 0
    shape: tuple[int, ...] = ()
    length: int = 0
    owner: int = 0

    @property
    def pattern_shape(self) -> tuple[int, ...]:
        return (2, *self.shape) if self.type in (13, 14) else self.shape


def decoded(data: bytes) -> dict[str, Any]:
    """The patterns of each tensor by name, as a flat list; "mixing" where that is needed for it."""
    assert data[:5] == b"\x8aWFZ\x01"
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    reader = Reader(data[:-32])
    reader.at = 6
    length = reader.varint()
    if data[5]:
        reader.varint()
    header = reader.take(length)
    tensors = tensors_of(Reader(zlib.decompress(header, -15) if data[5] else header))
    found: list[Any] = []
    for tensor in tensors:
        payload = reader.take(tensor.length) if tensor.kind != 6 else b""
        if payload:
            assert struct.unpack("<I", reader.take(4))[0] == zlib.crc32(payload)
        try:
            found.append(numbers(tensor, payload) if tensor.kind != 6 else None)
        except Mixed:
            found.append("mixing")
    assert not reader.rest()
    return {tensor.name: found[tensor.owner if tensor.kind == 6 else i] for i, tensor in enumerate(tensors)}


def tensors_of(reader: Reader) -> list[Tensor]:
    tensors = []
    name = b""
    for _ in range(reader.varint()):
        shared = reader.byte()
        name = name[:shared] + reader.take(reader.varint())
        tensor = Tensor(name.decode(), reader.byte())
        if tensor.kind == 6:
            tensor.owner = reader.varint()
        else:
            tensor.type = reader.byte()
            tensor.shape = tuple([reader.varint() for _ in range(reader.varint())])
            tensor.length = reader.varint()
        tensors.append(tensor)
    return tensors


# Kinds -------------------------------------------------------------------------------------------------------------


def numbers(tensor: Tensor, payload: bytes) -> list[int]:
    shape = tensor.pattern_shape
    n, width = prod(shape), WIDTHS[tensor.type]
    if n == 0:
        return []
    reader = Reader(payload)
    if tensor.kind in (0, 1):
        return [raw, planes][tensor.kind](reader, tensor.type, n)
    if tensor.kind == 2:
        known, count = reader.byte(), reader.varint()
        values = [0] * known + table(reader, count - known, tensor.type, bool(known))
        return [values[symbol] for symbol in stream(reader.rest(), count, shape)]
    if tensor.kind == 3:
        rows = shape[0] if reader.byte() else 1
        scales = table(reader, rows, tensor.type)
        signs = stream(reader.rest(), 2, shape)
        return [scales[i * rows // n] | sign << (8 * width - 1) for i, sign in enumerate(signs)]
    if tensor.kind == 4:
        return grid(reader, tensor.type, shape)
    count = reader.varint()
    mask = stream(reader.take(reader.varint()), 2, shape)
    others = iter([raw, planes][reader.byte()](reader, tensor.type, count))
    return [next(others) if kept else 0 for kept in mask]


def raw(reader: Reader, type: int, n: int) -> list[int]:
    width = WIDTHS[type]
    return [int.from_bytes(reader.take(width), "little") for _ in range(n)]


def planes(reader: Reader, type: int, n: int) -> list[int]:
    width = WIDTHS[type]
    patterns = [0] * n
    for _ in range(width):
        for i, byte in enumerate(stream(reader.take(reader.varint()), 256, (n,))):
            patterns[i] = patterns[i] << 8 | byte
    if type >= 9:
        patterns = [pattern >> 1 | (pattern & 1) << (8 * width - 1) for pattern in patterns]
    return patterns


def grid(reader: Reader, type: int, shape: tuple[int, ...]) -> list[int]:
    n = prod(shape)
    flags = reader.byte()
    rows = shape[0] if flags & 2 else 1
    scales = [struct.unpack("<f", struct.pack("<I", scale))[0] for scale in table(reader, rows, 11)]
    low, alphabet = reader.signed(), reader.varint()
    whole = list(range(low, low + alphabet))
    if flags & 1:
        whole.remove(0)
        whole.insert(0, 0)
    symbols = stream(reader.rest(), alphabet, shape)
    return [on_grid(scales[i * rows // n], whole[symbol], type) for i, symbol in enumerate(symbols)]


# Tables ------------------------------------------------------------------------------------------------------------


def table(reader: Reader, count: int, type: int, without_zero: bool = False) -> list[int]:
    form, width = reader.byte(), WIDTHS[type]
    if form == 0:
        kept = reader.byte()
        return [int.from_bytes(reader.take(kept), "little") << 8 * (width - kept) for _ in range(count)]
    if form in (1, 2):
        size, letter = (2, "e") if form == 1 else (4, "f")
        values = [struct.unpack("<" + letter, reader.take(size))[0] for _ in range(count)]
        return [int.from_bytes(struct.pack("<" + FLOATS[type], value), "little") for value in values]
    step = struct.unpack("<f", reader.take(4))[0] if form & 127 == 3 else None
    whole = [reader.signed()]
    while len(whole) < count:
        distance = 1 if form >= 128 else reader.varint() + 1
        whole.append(whole[-1] + distance)
        if form >= 128 and without_zero and whole[-1] == 0:
            whole[-1] = 1
    if step is None:
        return [number % (1 << 8 * width) for number in whole]
    return [on_grid(step, number, type) for number in whole]


def on_grid(step: float, whole: int, type: int) -> int:
    value = step * float(whole)
    if type in (12, 14):
        return int.from_bytes(struct.pack("<d", value), "little")
    single = int.from_bytes(struct.pack("<f", value), "little")
    if type == BFLOAT16:
        return single + 0x7FFF + (single >> 16 & 1) >> 16
    if type == 9:
        return int.from_bytes(struct.pack("<e", struct.unpack("<f", struct.pack("<f", value))[0]), "little")
    return single


# Streams -----------------------------------------------------------------------------------------------------------


def stream(data: bytes, alphabet: int, shape: tuple[int, ...]) -> list[int]:
    n, way, code = prod(shape), data[0], data[1:]
    if way == 0:
        return [0] * n
    if way == 1:
        bits = Bits(code)
        return [bits.take((alphabet - 1).bit_length()) for _ in range(n)]
    if way == 3:
        return positions(Reader(code), alphabet, n)
    if way == 5:
        raise Mixed
    return huffman(code, alphabet, n) if way == 2 else rans(code, alphabet, n)


def positions(reader: Reader, alphabet: int, n: int) -> list[int]:
    m, width = reader.varint(), reader.byte()
    gaps = [0] * m
    for place in range(width):
        for i, byte in enumerate(stream(reader.take(reader.varint()), 256, (m,))):
            gaps[i] |= byte << 8 * place
    symbols, at = [0] * n, -1
    for gap, symbol in zip(gaps, stream(reader.rest(), alphabet - 1, (m,))):
        at += gap + 1
        symbols[at] = symbol + 1
    return symbols


class Bits:
    """Bits, the lowest of a byte first."""

    def __init__(self, data: bytes) -> None:
        self.number, self.at, self.end = int.from_bytes(data, "little"), 0, 8 * len(data)

    def take(self, count: int) -> int:
        self.at += count
        assert self.at <= self.end
        return self.number >> (self.at - count) & ((1 << count) - 1)

    def gamma(self) -> int:
        width = 0
        while not self.take(1):
            width += 1
        return 1 << width | self.take(width)

    def lengths(self) -> list[int]:
        count, before, found = self.gamma(), 5, []
        while len(found) < count:
            if self.take(1):
                if not self.take(1):
                    before += 1 if self.take(1) else -1
                elif self.take(1):
                    before = self.take(4) + 1
                else:
                    found += [0] * self.gamma()
                    continue
            found.append(before)
        return found

    def whole_bytes(self) -> int:
        return (self.at + 7) // 8


def huffman(code: bytes, alphabet: int, n: int) -> list[int]:
    if code[0] == 0:
        return [Reader(code[1:]).varint()] * n
    bits = Bits(code[1:])
    codes, now, before = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(bits.lengths()) if length):
        now <<= length - before
        codes[length, now] = symbol
        now, before = now + 1, length
    assert now == 1 << before
    reader = Reader(code[1 + bits.whole_bytes() :])
    sizes = [reader.varint() for _ in range(code[0] - 1)]
    parts = [reader.take(size) for size in sizes] + [reader.rest()]
    share = -(-n // code[0])
    symbols: list[int] = []
    for place, part in enumerate(parts):
        bits = Bits(part)
        while len(symbols) < min(n, share * (place + 1)):
            key = (0, 0)
            while key not in codes:
                key = (key[0] + 1, key[1] << 1 | bits.take(1))
            symbols.append(codes[key])
    return symbols


def rans(code: bytes, alphabet: int, n: int) -> list[int]:
    if code[0] & 3 == 0:
        return [Reader(code[1:]).varint()] * n
    states, b, d = {1: 1, 2: 4}[code[0] & 3], (code[0] >> 2 & 7) + 9, code[0] >> 5
    bits = Bits(code[1:])
    widths = bits.lengths()
    longest = [symbol for symbol, width in enumerate(widths) if width == max(widths)]
    rest = longest[bits.gamma() - 1]
    frequencies = [0] * len(widths)
    for symbol, width in enumerate(widths):
        if width and symbol != rest:
            kept = min(width - 1, d)
            frequencies[symbol] = (1 << kept | bits.take(kept)) << (width - 1 - kept)
    frequencies[rest] = (1 << b) - sum(frequencies)
    starts = [sum(frequencies[:symbol]) for symbol in range(len(frequencies))]
    owners = [symbol for symbol, frequency in enumerate(frequencies) for _ in range(frequency)]
    reader = Reader(code[1 + bits.whole_bytes() :])
    now = [int.from_bytes(reader.take(4), "little") for _ in range(states)]
    symbols = []
    for i in range(n):
        state = now[i % states]
        symbol = owners[state % (1 << b)]
        symbols.append(symbol)
        state = frequencies[symbol] * (state >> b) + state % (1 << b) - starts[symbol]
        now[i % states] = state << 16 | int.from_bytes(reader.take(2), "little") if state < 1 << 16 else state
    assert set(now) == {1 << 16} and not reader.rest()
    return symbols
