"""Payloads of `.wfz` files as a forger would make them: well-formed streams, but of numbers that need not fit.

Flipped bits seldom get past a coder. Here each coder encodes what it is given, so that what lies behind it is reached:
positions behind the last number, masks that count wrongly, tables of odd numbers, symbols beyond their table.
"""

from __future__ import annotations

import random
from math import prod

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz import streams
from wellfit.slim.wfz.coders import huffman, mixing, rans
from wellfit.slim.wfz.numbers import DTYPE_NAMED, DTYPES, Dtype
from wellfit.slim.wfz.varint import signed, varint

MOST = 10_000  # numbers of a tensor: many small files reach more than few large ones
STEPS = [0.0, -0.0, 1e-45, 0.037, -1.0, 3.4e38, float("inf"), float("nan")]
ENCODERS = {"huffman": huffman, "rans": rans, "mixing": mixing}


def forged(chance: random.Random) -> tuple[int, Dtype, tuple[int, ...], bytes]:
    """A kind, a type, a shape and a payload for them; most of the payloads are right."""
    kind = chance.randrange(6)
    dtype = chance.choice(DTYPES)
    shape = tuple(chance.choice([1, 2, 3, 7, 20, 300]) for _ in range(chance.randrange(4)))
    while prod(shape) > MOST:
        shape = shape[1:]
    return kind, dtype, shape, _payload(chance, kind, dtype, dtype.pattern_shape(shape))


def _payload(chance: random.Random, kind: int, dtype: Dtype, shape: tuple[int, ...]) -> bytes:
    n, rows = prod(shape), shape[0] if shape else 1
    by_row = chance.randrange(2)
    if kind == 0:
        return chance.randbytes(_near(chance, n * dtype.width))
    if kind == 1:
        planes = [_stream(chance, 256, (n,), plain=True) for _ in range(_near(chance, dtype.width))]
        return b"".join(varint(len(plane)) + plane for plane in planes)
    if kind == 2:
        count, flag = chance.choice([1, 2, 5, 16, 256, 300]), chance.randrange(2)
        table = _table(chance, max(0, _near(chance, count) - flag), dtype)
        return bytes([flag]) + varint(count) + table + _stream(chance, count, shape)
    if kind == 3:
        return bytes([by_row]) + _table(chance, rows if by_row else 1, dtype) + _stream(chance, 2, shape)
    if kind == 4:
        alphabet, low = chance.choice([1, 2, 15, 256, 65_536]), chance.choice([0, -1, -7, -128, -65_536, 65_536])
        table = _table(chance, rows if by_row else 1, DTYPE_NAMED["float32"])
        head = bytes([chance.randrange(2) | by_row << 1]) + table
        return head + signed(low) + varint(alphabet) + _stream(chance, alphabet, shape)
    mask = _symbols(chance, 2, n)
    count = _near(chance, int(np.count_nonzero(mask)))
    stream = _coded(chance, mask, 2, shape, plain=False)
    inner = chance.randrange(2)
    return varint(count) + varint(len(stream)) + stream + bytes([inner]) + _payload(chance, inner, dtype, (count,))


def _near(chance: random.Random, number: int) -> int:
    """The number, or seldom one beside it."""
    return max(0, number + chance.choice([0] * 12 + [-1, 1]))


def _symbols(chance: random.Random, alphabet: int, count: int) -> NDArray[np.uint16]:
    numbers = np.random.default_rng(chance.randrange(1 << 32))
    symbols = numbers.integers(0, alphabet, count)
    return np.where(numbers.random(count) < chance.choice([0, 0.01, 0.3, 1]), symbols, 0).astype(np.uint16)


def _stream(chance: random.Random, alphabet: int, shape: tuple[int, ...], plain: bool = False) -> bytes:
    """Of an alphabet and a length that need not be those that are told beside it."""
    own, count = max(1, _near(chance, alphabet)), _near(chance, prod(shape))
    symbols = _symbols(chance, min(own, streams.MOST_SYMBOLS), count)
    return _coded(chance, symbols, min(own, streams.MOST_SYMBOLS), shape if count == prod(shape) else (count,), plain)


def _coded(
    chance: random.Random, symbols: NDArray[np.uint16], alphabet: int, shape: tuple[int, ...], plain: bool
) -> bytes:
    ways = ["packed", "huffman", "rans"] + ["positions", "positions", "mixing"] * (not plain or chance.random() < 0.02)
    way = chance.choice(ways)
    if alphabet == 1 or chance.random() < 0.02:
        way = "none"
    code = bytes([streams.CODERS.index(way)])
    if way == "none":
        return code
    if way == "packed":
        return code + streams._pack(symbols, alphabet)
    if way == "positions":
        return code + _positions(chance, alphabet, symbols.size)
    return code + ENCODERS[way].encode(symbols, alphabet, shape)


def _positions(chance: random.Random, alphabet: int, count: int) -> bytes:
    """Gaps of any size: about half of these lists reach beyond the last number."""
    others, width = chance.randrange(min(count, 40) + 2), chance.choice([1, 1, 1, 2, 4, 8])
    largest = chance.choice([1, max(1, count // max(1, others)), 255])
    planes = [_symbols(chance, min(256, largest if place == 0 else 256), others) for place in range(width)]
    planes[1:] = [plane * np.uint16(chance.random() < 0.1) for plane in planes[1:]]
    out = varint(_near(chance, others)) + bytes([width])
    for plane in planes:
        coded = _coded(chance, plane, 256, (others,), plain=True)
        out += varint(len(coded)) + coded
    return out + _stream(chance, max(1, alphabet - 1), (others,), plain=True)


def _table(chance: random.Random, count: int, dtype: Dtype) -> bytes:
    form = chance.choice([0, 0, 1, 2, 3, 4, 0x83, 0x84])
    if form == 0:
        kept = _near(chance, chance.randrange(1, dtype.width + 1))
        return bytes([0, kept]) + chance.randbytes(count * kept)
    if form in (1, 2):
        return bytes([form]) + chance.randbytes(count * 2 * form)
    out = bytes([form])
    if form & 3:
        out += np.float32(chance.choice(STEPS)).astype("<f4").tobytes()
    out += signed(chance.choice([0, -1, -3, 5, -300, 1 << 61, -(1 << 61)]))
    return out if form & 0x80 else out + b"".join(varint(chance.choice([0, 0, 1, 1 << 40])) for _ in range(count - 1))
