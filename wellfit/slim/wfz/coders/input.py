"""What the coders ask of the symbols that they are given."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from wellfit.errors import WellfitError

LARGEST_ALPHABET = 65536


def checked(symbols: NDArray[np.uint16], alphabet: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The symbols, flat and contiguous.

    Raises:
        WellfitError: they do not fit the alphabet or the shape, or the alphabet is none.
    """
    if not 1 <= alphabet <= LARGEST_ALPHABET:
        raise WellfitError(f"an alphabet of {alphabet} symbols cannot be coded: give 1 to {LARGEST_ALPHABET}")
    if symbols.dtype != np.uint16 or symbols.size != prod(shape):
        raise WellfitError(
            f"{symbols.size} symbols of {symbols.dtype} do not fit the shape {shape}: give {prod(shape)} of uint16"
        )
    if symbols.size and int(symbols.max()) >= alphabet:
        raise WellfitError(f"symbol {symbols.max()} is not in the alphabet of {alphabet}: give its whole size")
    return np.ascontiguousarray(symbols).reshape(-1)
