"""Makes a trained model small and fast, and proves it.

The names are imported when first asked for: `import wellfit.slim` needs neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.slim.files import load, save

__all__ = ["load", "save"]

_HOMES = {"load": "files", "save": "files"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
