"""Reading a run: its records, their series, curves and declarations. No torch is needed or imported.

The names are imported when first asked for: `wellfit.record.store` alone needs no numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.record.curves import Curve, Series
    from wellfit.record.declared import (
        BackwardSite,
        Clip,
        Hyper,
        Initial,
        Layer,
        Loader,
        Loss,
        Optimizer,
        Overridden,
        Parameter,
        Samples,
        Scheduler,
    )
    from wellfit.record.fields import location_of
    from wellfit.record.graph import Cut, Graph, Node
    from wellfit.record.record import Record
    from wellfit.record.run import Run, open_run

__all__ = [
    "BackwardSite",
    "Clip",
    "Curve",
    "Cut",
    "Graph",
    "Hyper",
    "Initial",
    "Layer",
    "Loader",
    "Loss",
    "Node",
    "Optimizer",
    "Overridden",
    "Parameter",
    "Record",
    "Run",
    "Samples",
    "Scheduler",
    "Series",
    "location_of",
    "open_run",
]

_HOMES = {
    "curves": ("Curve", "Series"),
    "declared": (
        "BackwardSite", "Clip", "Hyper", "Initial", "Layer", "Loader", "Loss", "Optimizer", "Overridden", "Parameter",
        "Samples", "Scheduler",
    ),
    "fields": ("location_of",),
    "graph": ("Cut", "Graph", "Node"),
    "record": ("Record",),
    "run": ("Run", "open_run"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
