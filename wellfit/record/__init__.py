"""Reading a run: its records, their series, curves and declarations. No torch is needed or imported."""

from wellfit.record.curves import Curve, Series
from wellfit.record.declared import (
    BackwardSite,
    Hyper,
    Initial,
    Layer,
    Loader,
    Loss,
    Optimizer,
    Parameter,
    Scheduler,
)
from wellfit.record.fields import location_of
from wellfit.record.graph import Cut, Graph, Node
from wellfit.record.record import Record
from wellfit.record.run import Run, open_run

__all__ = [
    "BackwardSite",
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
    "Parameter",
    "Record",
    "Run",
    "Scheduler",
    "Series",
    "location_of",
    "open_run",
]
