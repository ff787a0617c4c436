"""The statistics of tensors: by a C kernel where it was built, by torch elsewhere.

Import this module after torch. `kernel` is None where the library was not built, does not load, speaks another version
of the interface, or is switched off by WELLFIT_NATIVE=0; `twin` is always there.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from wellfit.probe.native.interface import (
    ABSOLUTE,
    SIGNED,
    Change,
    Snapshot,
    Statistics,
    Summary,
    UnitAge,
    UnitSums,
)
from wellfit.probe.native.kernel import Kernel
from wellfit.probe.native.supported import supports
from wellfit.probe.native.twin import Twin

__all__ = [
    "ABSOLUTE",
    "SIGNED",
    "Change",
    "Kernel",
    "Snapshot",
    "Statistics",
    "Summary",
    "Twin",
    "UnitAge",
    "UnitSums",
    "kernel",
    "statistics",
    "supports",
    "twin",
]


def _load() -> Kernel | None:
    """The kernel from the library beside this file; a library that does not fit is as good as none."""
    if os.environ.get("WELLFIT_NATIVE") == "0":
        return None
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("_kernel*.so"), *folder.glob("_kernel*.pyd")]):
        try:
            return Kernel(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):  # another platform's file, or another version's
            continue
    return None


kernel: Kernel | None = _load()
"""The C kernel, for tensors that `supports` accepts; None where there is none."""

twin: Twin = Twin()
"""The same in torch, for all tensors."""


def statistics(tensor: torch.Tensor) -> Statistics:
    """The faster of the two that can take this tensor."""
    return kernel if kernel is not None and supports(tensor) else twin
