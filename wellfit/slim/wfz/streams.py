"""Streams of symbols: each is coded in the way that takes the fewest bytes, and says in its first byte which it is.

The ways, from the fastest to read to the slowest: `none` (there is one symbol only), `packed` (whole bits), `huffman`,
`positions` (where the symbol is not 0, and the other symbols), `rans`, `mixing`.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders import huffman, mixing, rans
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.varint import Cursor, varint

MOST_SYMBOLS = 1 << 16
CODERS = ("none", "packed", "huffman", "positions", "rans", "mixing")
NEAR = 1.1  # where speed is asked for, the fastest way that is at most this much larger than the smallest is taken
_CODERS = {"huffman": huffman, "rans": rans, "mixing": mixing}
_MIXED_SYMBOLS = 1024  # beyond, mixing has too few numbers to learn each symbol from, and is slow
_MIXED_GAIN = 0.98  # of the bytes of the next best way, where mixing takes seconds to read and the others milliseconds
_QUICKLY = 1 << 16  # symbols that are read in a tenth of a second, so that every byte counts
_MIXED_WIDTH = 1 << 20  # places of a row that mixing may have to remember something of, some 32 bytes for each
_POSITIONS_FROM = 32  # zeros for each other symbol, from which positions may be smaller
_SLICE = 1 << 16  # symbols packed at a time, for bits as bytes are 8 times as large; a multiple of 8: whole bytes

Symbols = NDArray[np.uint16]


def encode(symbols: Symbols, alphabet: int, shape: tuple[int, ...], *, small: bool, plain: bool = False) -> bytes:
    """Symbols as bytes: the smallest way, or with `small=False` the fastest of those that are nearly as small.

    Mixing is so slow to read that it is only tried where small is what counts, and for large tensors only taken where
    it saves two percent.

    Args:
        symbols: flat, prod(shape) numbers below `alphabet`.
        alphabet: number of symbols, 1 to 65,536.
        shape: of the tensor that they are of; neighbours in it help the mixing coder.
        plain: leave out `positions` and `mixing`: for planes of bytes, which have no shape.
    """
    if alphabet == 1 or symbols.size == 0:
        return bytes([CODERS.index("none")])
    found = {"huffman": huffman.encode(symbols, alphabet, shape)}
    if not plain:
        positions = _positions(symbols, alphabet, small)
        if positions is not None:
            found["positions"] = positions
    found["rans"] = rans.encode(symbols, alphabet, shape)
    sizes = {"packed": (symbols.size * _bits(alphabet) + 7) // 8, **{name: len(data) for name, data in found.items()}}
    if small and not plain and alphabet <= _MIXED_SYMBOLS and _mixed_width(shape) <= _MIXED_WIDTH:
        mixed = mixing.encode(symbols, alphabet, shape)
        if symbols.size <= _QUICKLY or len(mixed) <= _MIXED_GAIN * min(sizes.values()):
            found["mixing"], sizes["mixing"] = mixed, len(mixed)
    name = quickest(sizes, small)
    return bytes([CODERS.index(name)]) + (_pack(symbols, alphabet) if name == "packed" else found[name])


def quickest(sizes: dict[str, int], small: bool) -> str:
    """The name of the smallest, or with `small=False` of the first that is nearly as small."""
    smallest = min(sizes.values())
    limit = smallest if small else smallest * NEAR
    return next(name for name, size in sizes.items() if size <= limit)


def decode(data: memoryview, alphabet: int, shape: tuple[int, ...]) -> Symbols:
    """The symbols, flat.

    Raises:
        Damaged: the bytes are no such symbols.
    """
    if not 1 <= alphabet <= MOST_SYMBOLS:
        raise Damaged(f"{alphabet} symbols are said to be in use: there can be 1 to {MOST_SYMBOLS}")
    name, rest = coder_of(data), data[1:]
    count = prod(shape)
    if name == "none":
        if len(rest) or (alphabet > 1 and count > 0):
            raise Damaged("a stream of one symbol has bytes or an alphabet of its own")
        return np.zeros(count, np.uint16)
    if name == "packed":
        return _unpack(rest, alphabet, count)
    if name == "positions":
        return _placed(rest, alphabet, count)
    if name == "mixing" and _mixed_width(shape) > _MIXED_WIDTH:
        raise Damaged(f"a tensor of shape {shape} is coded by mixing, for which its rows are too long")
    symbols: Symbols = _CODERS[name].decode(rest, alphabet, shape)
    return symbols


def decode_plain(data: memoryview, alphabet: int, count: int) -> Symbols:
    """A stream that was encoded with `plain`. There are no `positions` in it: streams are not nested without end."""
    if coder_of(data) in ("positions", "mixing"):
        raise Damaged(f"a stream of symbols is coded by {coder_of(data)}, which must not be here")
    return decode(data, alphabet, (count,))


def decode_bytes(data: memoryview, count: int) -> NDArray[np.unsignedinteger[Any]]:
    """A plain stream of 256 symbols; uint8 where it is so in the file, for speed."""
    if coder_of(data) == "packed" and len(data) == count + 1:
        return np.frombuffer(data[1:], np.uint8)
    return decode_plain(data, 256, count)


def coder_of(data: memoryview) -> str:
    """The name of the way in which a stream is coded."""
    if not len(data) or data[0] >= len(CODERS):
        raise Damaged("a stream of symbols is coded in no known way")
    return CODERS[data[0]]


def _mixed_width(shape: tuple[int, ...]) -> int:
    """Places of a row, or of a column with its kernels: mixing goes along either."""
    return prod(shape[2:]) * max(shape[:2]) if len(shape) > 1 else prod(shape)


def _bits(alphabet: int) -> int:
    return (alphabet - 1).bit_length()


def _pack(symbols: Symbols, alphabet: int) -> bytes:
    """Each symbol in as many bits as the largest needs: the lowest bit first, bytes filled from their lowest bit."""
    if alphabet > 128 and alphabet <= 256:
        return symbols.astype(np.uint8).tobytes()
    wide = symbols.astype("<u2").view(np.uint8).reshape(-1, 2)
    parts = []
    for start in range(0, len(wide), _SLICE):
        bits = np.unpackbits(wide[start : start + _SLICE], axis=1, bitorder="little")[:, : _bits(alphabet)]
        parts.append(np.packbits(bits, bitorder="little").tobytes())
    return b"".join(parts)


def _unpack(data: memoryview, alphabet: int, count: int) -> Symbols:
    width = _bits(alphabet)
    if alphabet < 2 or len(data) != (count * width + 7) // 8:
        raise Damaged(f"{count} packed symbols take {(count * width + 7) // 8} bytes, not {len(data)}")
    if width in (8, 16):
        symbols: Symbols = np.frombuffer(data, f"<u{width // 8}").astype(np.uint16)
    else:
        symbols = _unpack_bits(np.frombuffer(data, np.uint8), width, count)
    if symbols.size and int(symbols.max()) >= alphabet:
        raise Damaged(f"a symbol is not among the {alphabet} that are in use")
    return symbols


def _unpack_bits(data: NDArray[np.uint8], width: int, count: int) -> Symbols:
    symbols = np.empty(count, np.uint16)
    for start in range(0, count, _SLICE):
        part = min(_SLICE, count - start)
        bits = np.unpackbits(data[start * width // 8 : ((start + part) * width + 7) // 8], bitorder="little")
        wide = np.zeros((part, 16), np.uint8)
        wide[:, :width] = bits[: part * width].reshape(part, width)
        symbols[start : start + part] = np.packbits(wide, axis=1, bitorder="little").view("<u2").reshape(-1)
    if count * width % 8 and data[-1] >> (count * width % 8):
        raise Damaged("the bits behind the last packed symbol are not 0")
    return symbols


def _positions(symbols: Symbols, alphabet: int, small: bool) -> bytes | None:
    """Where the symbol is not 0, as the number of zeros before each; then the other symbols."""
    places = np.flatnonzero(symbols)
    if places.size * _POSITIONS_FROM > symbols.size:
        return None
    gaps = np.diff(places, prepend=-1) - 1
    width = next(width for width in (1, 2, 4, 8) if places.size == 0 or int(gaps.max()) < 1 << (8 * width))
    out = [varint(places.size), bytes([width])]
    planes = gaps.astype(f"<u{width}").view(np.uint8).reshape(-1, width)
    for place in range(width):
        plane = encode(planes[:, place].astype(np.uint16), 256, (places.size,), small=small, plain=True)
        out += [varint(len(plane)), plane]
    out.append(encode(symbols[places] - np.uint16(1), alphabet - 1, (places.size,), small=small, plain=True))
    return b"".join(out)


def _placed(data: memoryview, alphabet: int, count: int) -> Symbols:
    cursor = Cursor(data, "a list of positions")
    others, width = cursor.varint(), cursor.byte()
    if others > count or width not in (1, 2, 4, 8) or alphabet < 2:
        raise Damaged(f"{others} positions of {width} bytes among {count} symbols: there are not so many")
    planes = np.zeros((others, width), np.uint8)
    for place in range(width):
        plane = cursor.take(cursor.varint())
        planes[:, place] = decode_plain(plane, 256, others)
    gaps = planes.view(f"<u{width}").reshape(-1)
    if others and float(gaps.sum(dtype=np.float64)) + others > count:
        raise Damaged(f"a position lies behind the last of {count} symbols")
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    symbols = np.zeros(count, np.uint16)
    symbols[places] = decode_plain(cursor.rest(), alphabet - 1, others) + np.uint16(1)
    return symbols
