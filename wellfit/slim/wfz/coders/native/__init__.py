"""The C library of the coders, where it was built.

`library` is None where it was not built, does not load, speaks another version of the interface, or is switched off by
WELLFIT_NATIVE=0.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from wellfit.slim.wfz.coders.native.library import Library

__all__ = ["Library", "library"]


def _load() -> Library | None:
    """The library beside this file; one that does not fit is as good as none."""
    if os.environ.get("WELLFIT_NATIVE") == "0":
        return None
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("_coders*.so"), *folder.glob("_coders*.pyd")]):
        try:
            return Library(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):  # another platform's file, or another version's
            continue
    return None


library: Library | None = _load()
