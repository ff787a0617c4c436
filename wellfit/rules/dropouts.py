"""Dropout as it acts in training: of modules, and of calls of `F.dropout` in the first steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wellfit.finding import Location
from wellfit.record import Layer, Node, Record
from wellfit.rules.wiring import early_graphs, is_dropout
from wellfit.source import applied_at


@dataclass(frozen=True)
class Drop:
    """One place that drops values in training.

    Args:
        rate: share that is dropped; NaN where it cannot be told.
        layer: name of the module, or None of a function.
        location: of the module or call.
        what: how to name it in a message.
    """

    rate: float
    layer: str | None
    location: Location | None
    what: str


def drops(record: Record) -> list[Drop]:
    """All dropout that acts in training, modules first."""
    off = _never_acting(record)
    found = []
    for layer in record.layers.values():
        rate = _rate(layer)
        if layer.order >= 0 and rate > 0 and layer.name not in off:
            found.append(Drop(rate, layer.name, layer.location, f"`{layer.name}`"))
    called: dict[Location | None, Drop] = {}
    for graph in early_graphs(record):
        for node in graph.nodes:
            if is_dropout(node) and not _of_module(record, node):
                drop, known = drop_of(record, node), called.get(node.location)
                if known is None or math.isnan(known.rate) or drop.rate > known.rate:
                    called[node.location] = drop
    return [*found, *called.values()]


def drop_of(record: Record, node: Node) -> Drop:
    """The dropout that a node belongs to."""
    layer = record.layers.get(node.layer) if node.layer is not None else None
    if layer is not None and _of_module(record, node):
        return Drop(_rate(layer), layer.name, applied_at(record, layer.name, node.location), f"`{layer.name}`")
    return Drop(node.rate, None, node.location, f"F.{node.function or 'dropout'}")


def _of_module(record: Record, node: Node) -> bool:
    """Whether a module with a rate of its own made the node."""
    layer = record.layers.get(node.layer) if node.layer is not None else None
    return layer is not None and layer.kind in ("dropout", "recurrent", "attention")


def _rate(layer: Layer) -> float:
    """The share that a module drops; 0 if it drops nothing."""
    value = layer.attributes.get("p" if layer.kind == "dropout" else "dropout", 0.0)
    if layer.kind == "recurrent" and layer.attributes.get("num_layers", 1) == 1:
        return 0.0  # it acts between layers only
    known = layer.kind in ("dropout", "recurrent", "attention") and isinstance(value, (int, float))
    return float(value) if known else 0.0


def _never_acting(record: Record) -> set[str]:
    """Names of dropout layers that were in eval mode in each training step that was watched."""
    events = record.events("forward-mode")
    on = {name for event in events for name in event["training_layers"] if isinstance(name, str)}
    return {name for event in events for name in event["eval_layers"] if isinstance(name, str)} - on
