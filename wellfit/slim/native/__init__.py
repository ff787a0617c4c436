"""Products with weights of one bit: by a C kernel where it was built, by torch elsewhere; both give the same numbers.

Import this package after torch. `kernel` is None where the library was not built, does not load, speaks another version
of the interface, or is switched off by WELLFIT_NATIVE=0; `twin` is always there.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from wellfit.slim.native.kernel import BinaryKernel
from wellfit.slim.native.shape import ConvShape, Weights
from wellfit.slim.native.twin import BinaryTwin

__all__ = ["BinaryKernel", "BinaryTwin", "ConvShape", "Weights", "kernel", "twin"]


def _load() -> BinaryKernel | None:
    """The kernel from the library beside this file; a library that does not fit is as good as none."""
    if os.environ.get("WELLFIT_NATIVE") == "0":
        return None
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("_binary*.so"), *folder.glob("_binary*.pyd")]):
        try:
            return BinaryKernel(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):  # another platform's file, or another version's
            continue
    return None


kernel: BinaryKernel | None = _load()
"""The C kernel, for float32 on the CPU; None where there is none."""

twin: BinaryTwin = BinaryTwin()
"""The same in torch, on any device."""
