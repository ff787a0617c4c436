"""The C library behind the interface: hands it pointers, and turns its answers into errors."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.damage import Damaged

ABI = 1

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES = {
    "wfz_huffman_encode": (_LONG, [_POINTER, _LONG, _POINTER, _POINTER, _LONG]),
    "wfz_huffman_decode": (_INT, [_POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER]),
    "wfz_rans_encode": (_LONG, [_POINTER, _LONG, _POINTER, _INT, _INT, _POINTER, _LONG]),
    "wfz_rans_decode": (_INT, [_POINTER, _LONG, _LONG, _POINTER, _INT, _INT, _POINTER]),
}
_MEANING = {
    -1: "is cut off",
    -2: "does not end where its symbols do",
}


class Library:
    """See `engine.Engine`. Buffers belong to the call: the library works without the GIL, in any thread."""

    name = "native"

    def __init__(self, library: ctypes.CDLL) -> None:
        """Bind the functions of a loaded library.

        Raises:
            OSError: the library speaks another version of the interface.
        """
        if library.wfz_abi() != ABI:
            raise OSError(f"the coders have interface version {library.wfz_abi()}, {ABI} is needed: install anew")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library

    def huffman_encode(self, symbols: NDArray[np.uint16], codes: NDArray[np.uint32]) -> bytes:
        """See `Engine.huffman_encode`."""
        out = np.empty(int((codes[symbols] >> 16).sum(dtype=np.int64) + 7 >> 3), np.uint8)
        size = self._library.wfz_huffman_encode(_at(symbols), len(symbols), _at(codes), _at(out), len(out))
        return out[:size].tobytes()

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
        size, start, source = np.array(sizes, np.int64), np.array(starts, np.int64), np.frombuffer(data, np.uint8)
        status = self._library.wfz_huffman_decode(
            _at(source) + at, _at(size), _at(start), len(sizes), _at(table), bits, _at(out)
        )
        if status:
            raise Damaged(f"a stream of a Huffman-coded tensor {_MEANING[status]}")
        return out

    def rans_encode(self, symbols: NDArray[np.uint16], table: NDArray[np.uint32], bits: int, states: int) -> bytes:
        """See `Engine.rans_encode`."""
        # A symbol takes at most 16 bits: its frequency is at least one of 2 ** 16.
        out = np.empty(2 * len(symbols) + 4 * states, np.uint8)
        size = self._library.wfz_rans_encode(_at(symbols), len(symbols), _at(table), bits, states, _at(out), len(out))
        return out[len(out) - size :].tobytes()

    def rans_decode(
        self, data: bytes | memoryview, at: int, count: int, slots: NDArray[np.uint64], bits: int, states: int
    ) -> NDArray[np.uint16]:
        """See `Engine.rans_decode`."""
        out = np.empty(count, np.uint16)
        source = np.frombuffer(data, np.uint8)
        status = self._library.wfz_rans_decode(
            _at(source) + at, len(source) - at, count, _at(slots), bits, states, _at(out)
        )
        if status:
            raise Damaged(f"an rANS-coded tensor {_MEANING[status]}")
        return out


def _at(array: NDArray[np.generic]) -> int:
    """Where the elements of a contiguous array are."""
    return array.ctypes.data
