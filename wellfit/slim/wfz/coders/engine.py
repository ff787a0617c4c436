"""The loops over symbols: by the C library where it was built, by numpy and Python elsewhere, with the same bits."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Matrix(NamedTuple):
    """A tensor as the mixing coder sees it."""

    shape: tuple[int, int, int]  # rows, columns, weights in a kernel
    alphabet: int
    negatives: int  # symbols from 1 on that stand for negative values
    lag: int  # how far along a row a weight resembles another one, besides its neighbours; 0: not known


class Engine(Protocol):
    """What is done for each symbol. All methods that decode raise Damaged for data that cannot be."""

    name: str

    def huffman_encode(self, symbols: NDArray[np.uint16], codes: NDArray[np.uint32]) -> bytes:
        """One stream; of each symbol's code the first bit is lowest, from bit 16 on is its length."""

    def huffman_decode(
        self,
        data: bytes | memoryview,
        at: int,
        sizes: list[int],
        starts: list[int],
        table: NDArray[np.uint32],
        bits: int,
    ) -> NDArray[np.uint16]:
        """Streams of these sizes from `at` to the end of the data; stream k gives symbols starts[k] to starts[k + 1].

        The table has for each value of the next `bits` bits a symbol, and from bit 16 on the length of its code.
        """

    def rans_encode(self, symbols: NDArray[np.uint16], table: NDArray[np.uint32], bits: int, states: int) -> bytes:
        """States and words; the table has for each symbol its frequency, and from bit 16 on the sum of those before."""

    def rans_decode(
        self, data: bytes | memoryview, at: int, count: int, slots: NDArray[np.uint64], bits: int, states: int
    ) -> NDArray[np.uint16]:
        """The symbols of the states and words from `at` to the end of the data; for the slots see rans.py."""

    def mixing_encode(self, symbols: NDArray[np.uint16], matrix: Matrix) -> bytes:
        """One stream."""

    def mixing_decode(self, data: bytes | memoryview, at: int, matrix: Matrix) -> NDArray[np.uint16]:
        """The symbols of the stream from `at` to the end of the data."""


@cache
def engine() -> Engine:
    """The C library, or its twin where there is none."""
    from wellfit.slim.wfz.coders import native
    from wellfit.slim.wfz.coders.twin import Twin

    return native.library or Twin()
