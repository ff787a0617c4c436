"""Dropout as it acts in training: of modules, and of calls of `F.dropout` where the program's text tells their rate."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

from wellfit.finding import Location
from wellfit.record import Layer, Node, Record
from wellfit.rules.source import applied_at, source_of
from wellfit.rules.wiring import early_graphs

_FUNCTIONS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


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
    places: set[Location | None] = set()
    for graph in early_graphs(record):
        for node in graph.nodes:
            if is_dropout(node) and not _of_module(record, node) and node.location not in places:
                places.add(node.location)
                found.append(drop_of(record, node))
    return found


def is_dropout(node: Node) -> bool:
    """Whether a node of the graph drops values."""
    return node.function in _FUNCTIONS or node.op.startswith("NativeDropout")


def drop_of(record: Record, node: Node) -> Drop:
    """The dropout that a node belongs to."""
    layer = record.layers.get(node.layer) if node.layer is not None else None
    if layer is not None and _of_module(record, node):
        return Drop(_rate(layer), layer.name, applied_at(record, layer.name, node.location), f"`{layer.name}`")
    return Drop(_written_rate(node.location, node.function), None, node.location, f"F.{node.function or 'dropout'}")


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


def _written_rate(where: Location | None, function: str | None) -> float:
    """The rate that a call of `F.dropout` gives as a number (0.5 where it gives none); else NaN."""
    source = source_of(where.file) if where is not None else None
    if source is None or where is None:
        return math.nan
    calls = [
        call
        for call in source.calls([function or "dropout"])
        if call.lineno <= where.line <= (call.end_lineno or call.lineno)
    ]
    rates = {_given_rate(call) for call in calls}
    return rates.pop() if len(rates) == 1 else math.nan


def _given_rate(call: ast.Call) -> float:
    given = next((word.value for word in call.keywords if word.arg == "p"), None)
    if given is None:
        given = call.args[1] if len(call.args) > 1 else ast.Constant(0.5)
    known = isinstance(given, ast.Constant) and isinstance(given.value, (int, float))
    return float(given.value) if known and isinstance(given, ast.Constant) else math.nan  # type: ignore[arg-type]
