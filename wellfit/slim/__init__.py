"""Makes a trained model small and fast, and proves it.

The names are imported when first asked for: `import wellfit.slim` needs neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.slim.files import load, save
    from wellfit.slim.planning.applying import Slimmed, apply
    from wellfit.slim.planning.make import plan
    from wellfit.slim.planning.plan import Plan
    from wellfit.slim.reporting import Report, report

__all__ = ["Plan", "Report", "Slimmed", "apply", "load", "plan", "report", "save"]

_HOMES = {
    "Plan": "planning.plan",
    "Report": "reporting",
    "Slimmed": "planning.applying",
    "apply": "planning.applying",
    "load": "files",
    "plan": "planning.make",
    "report": "reporting",
    "save": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
