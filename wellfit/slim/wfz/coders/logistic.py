"""The tables of the mixing coder, in whole numbers only: the same on every machine.

`squash` gives 65,536 / (1 + exp(-x / 256)) for x from -RANGE to RANGE, `stretch` is its inverse.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

RANGE = 2815
"""exp(-2815 / 256) is 1 / 59,600: the smallest probability is one of 65,536."""

FINE = 2048
"""Probabilities under FINE / 65,536 have an entry each in `stretch`, others one for every sixteen."""

_ONE = 1 << 60
_STEP = 1148426689630428643
"""exp(-1 / 256) in units of 2 ** -60."""


@cache
def squash() -> NDArray[np.uint16]:
    """Probabilities of 16 bits at x + RANGE, 2 * RANGE + 1 of them; none is 0."""
    falling, power = [], _ONE
    for _ in range(RANGE + 1):
        falling.append((65536 * power + (_ONE + power) // 2) // (_ONE + power))
        power = power * _STEP >> 60
    rising = [65536 - value for value in falling]
    return np.array(falling[:0:-1] + rising, np.uint16)


@cache
def stretch() -> NDArray[np.int16]:
    """Arguments of `squash` for probabilities p up to a half: entry p if p < FINE, entry FINE + p / 16 above.

    For greater p it is -stretch(65536 - p).
    """
    p = np.concatenate((np.arange(FINE), np.arange(0, 32768 + 16, 16) + 8))
    above = np.searchsorted(squash(), np.minimum(p, 32768)).clip(1, RANGE)
    table = squash().astype(np.int64)
    nearer = above - (2 * np.minimum(p, 32768) < table[above - 1] + table[above])
    return np.asarray(nearer - RANGE, np.int16)
