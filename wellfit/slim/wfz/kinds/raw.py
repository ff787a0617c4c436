"""Raw: the numbers as they are in memory, little-endian."""

from __future__ import annotations

from math import prod

import numpy as np

from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.numbers import Dtype, Patterns

CODE = 0
NAME = "raw"


def pack(patterns: Patterns, dtype: Dtype, small: bool) -> bytes | None:
    """See `Kind`."""
    return patterns.tobytes()


def unpack(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> Patterns:
    """See `Kind`."""
    wanted = prod(shape) * dtype.width
    if len(payload) != wanted:
        raise Damaged(f"{prod(shape)} raw numbers take {wanted} bytes, not {len(payload)}")
    patterns: Patterns = np.frombuffer(payload, dtype.pattern_type).reshape(shape).copy()
    return patterns


def coder(payload: memoryview, dtype: Dtype, shape: tuple[int, ...]) -> str:
    """See `Kind`."""
    return "none"
