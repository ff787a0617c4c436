"""The file of slim models, `.wfz`: written, and read with every byte checked, with numpy alone. See docs/wfz.md.

The names are imported when first asked for: `wellfit.slim.wfz.safetensors` alone needs no numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.slim.wfz.contents import Contents, Stored, read
    from wellfit.slim.wfz.damage import Damaged
    from wellfit.slim.wfz.numbers import BFloat16, Float8, Given, Same, marked
    from wellfit.slim.wfz.writer import Written, WrittenTensor, write

__all__ = [
    "BFloat16",
    "Contents",
    "Damaged",
    "Float8",
    "Given",
    "Same",
    "Stored",
    "Written",
    "WrittenTensor",
    "marked",
    "read",
    "write",
]

_HOMES = {
    "contents": ("Contents", "Stored", "read"),
    "damage": ("Damaged",),
    "numbers": ("BFloat16", "Float8", "Given", "Same", "marked"),
    "writer": ("Written", "WrittenTensor", "write"),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
