"""Symbols that no coder is needed for: none at all, an alphabet of one, or one symbol again and again.

The data of the first two are empty. Those of the third are a byte, 0, and the symbol as a varint; no coder's own data
begin with 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.bits import read_varint, varint
from wellfit.slim.wfz.damage import Damaged


def encoded(symbols: NDArray[np.uint16], alphabet: int) -> bytes | None:
    """The data, None where a coder is needed."""
    if not len(symbols) or alphabet == 1:
        return b""
    return b"\0" + varint(int(symbols[0])) if symbols.min() == symbols.max() else None


def decoded(data: bytes | memoryview, alphabet: int, count: int, what: str) -> NDArray[np.uint16] | None:
    """The symbols, None where a coder is needed.

    Args:
        what: is decoded, for the message.

    Raises:
        Damaged: the data are not what `encoded` gives.
    """
    if not count or alphabet == 1:
        if len(data):
            raise Damaged(f"{len(data)} bytes are left over after {what} that needs none")
        return np.zeros(count, np.uint16)
    if not len(data):
        raise Damaged(f"{what} is empty")
    if data[0]:
        return None
    symbol, end = read_varint(data, 1)
    if symbol >= alphabet or end != len(data):
        raise Damaged(f"{what} of one symbol has symbol {symbol} of {alphabet}, {len(data)} bytes")
    return np.full(count, symbol, np.uint16)
