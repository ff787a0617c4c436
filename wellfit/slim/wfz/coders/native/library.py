"""The C library behind the interface: hands it pointers, and turns its answers into errors."""

from __future__ import annotations

import ctypes
from math import prod

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.wfz.coders.engine import Matrix
from wellfit.slim.wfz.coders.logistic import squash, stretch
from wellfit.slim.wfz.damage import Damaged

ABI = 1

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES = {
    "wfz_huffman_encode": (_LONG, [_POINTER, _LONG, _POINTER, _POINTER, _LONG]),
    "wfz_huffman_decode": (_INT, [_POINTER, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER]),
    "wfz_rans_encode": (_LONG, [_POINTER, _LONG, _POINTER, _INT, _INT, _POINTER, _LONG]),
    "wfz_rans_decode": (_INT, [_POINTER, _LONG, _LONG, _POINTER, _INT, _INT, _POINTER]),
    "wfz_mixing_room": (_LONG, [_LONG, _LONG]),
    "wfz_mixing_encode": (_LONG, [_POINTER, _POINTER, _LONG, _LONG, _LONG] + 4 * [_POINTER] + [_LONG]),
    "wfz_mixing_decode": (_LONG, [_POINTER, _LONG, _POINTER, _POINTER, _LONG, _LONG, _LONG] + 3 * [_POINTER]),
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

    def mixing_encode(self, symbols: NDArray[np.uint16], matrix: Matrix) -> bytes:
        """See `Engine.mixing_encode`."""
        for most in (2, 40):  # bytes for each symbol; every decision takes less than 17 bits, and there are at most 18
            out = np.empty(most * len(symbols) + 64, np.uint8)
            shape, room = self._mixing(matrix)
            size = self._library.wfz_mixing_encode(
                _at(symbols), _at(shape), *matrix[1:], _at(squash()), _at(stretch()), _at(room), _at(out), len(out)
            )
            if size >= 0:
                break
        return out[:size].tobytes()

    def mixing_decode(self, data: bytes | memoryview, at: int, matrix: Matrix) -> NDArray[np.uint16]:
        """See `Engine.mixing_decode`."""
        out = np.empty(prod(matrix.shape), np.uint16)
        source = np.frombuffer(data, np.uint8)
        shape, room = self._mixing(matrix)
        status = self._library.wfz_mixing_decode(
            _at(source) + at,
            len(source) - at,
            _at(out),
            _at(shape),
            *matrix[1:],
            _at(squash()),
            _at(stretch()),
            _at(room),
        )
        if status:
            raise Damaged(f"a tensor coded by mixing {_MEANING[status]}")
        return out

    def _mixing(self, matrix: Matrix) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The shape as C takes it, and zeroed memory for the model."""
        size = self._library.wfz_mixing_room(matrix.shape[1], matrix.shape[2])
        return np.array(matrix.shape, np.int64), np.zeros(size + 7 >> 3, np.uint64)


def _at(array: NDArray[np.generic]) -> int:
    """Where the elements of a contiguous array are."""
    return array.ctypes.data
