"""Dropout as it acts in training: of modules, and of calls of `F.dropout` whose rate the text or the gradients tell."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

import numpy as np

from wellfit.finding import Location
from wellfit.record import Graph, Layer, Node, Record
from wellfit.rules.wiring import early_graphs, function_of, is_dropout, is_linear, is_pass
from wellfit.source import applied_at, source_of

_NEVER_FLAT = ("Tanh", "Sigmoid", "Gelu", "Silu", "Elu", "LeakyRelu", "Mish", "Softplus", "LogSigmoid")
_MEASURED = 20  # first sampled steps that tell a rate
_FEWEST = 5


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
                drop, known = drop_of(record, graph, node), called.get(node.location)
                if known is None or math.isnan(known.rate) or drop.rate > known.rate:
                    called[node.location] = drop
    return [*found, *called.values()]


def drop_of(record: Record, graph: Graph, node: Node) -> Drop:
    """The dropout that a node belongs to."""
    layer = record.layers.get(node.layer) if node.layer is not None else None
    if layer is not None and _of_module(record, node):
        return Drop(_rate(layer), layer.name, applied_at(record, layer.name, node.location), f"`{layer.name}`")
    rate = _written_rate(node.location, node.function)
    if math.isnan(rate):
        rate = _measured_rate(record, graph, node)
    return Drop(rate, None, node.location, f"F.{node.function or 'dropout'}")


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


def _measured_rate(record: Record, graph: Graph, node: Node) -> float:
    """The rate, or less, of a call between two layers with weights, told by gradients of their outputs; NaN elsewhere.

    The gradient of the first one's output is 0 where it was dropped, where a ReLU between is flat, and where no
    gradient comes from behind: not more often than in the output of the second.
    """
    users = _users(graph, node)
    unlearned = max((_zero_share(record, user) for user in users if is_linear(user)), default=math.nan)
    if not all(map(is_linear, users)) or not unlearned < 0.9:
        return math.nan
    below, relu = _feeding(graph, node)
    layer = record.layers.get(below.layer or "") if below is not None else None
    if layer is None or layer.kind != "linear" or (relu and layer.activation != "relu"):
        return math.nan
    gradient, output = record.series("activation_gradient", layer.name), record.series("activation", layer.name)
    _, own, other = np.intersect1d(gradient.step, output.step, return_indices=True)
    own, other = own[:_MEASURED], other[:_MEASURED]
    gone = gradient.low_share[own]
    flat = output.low_share[other] if relu else np.zeros(len(own))
    known = np.isfinite(gradient.rms[own]) & (gone < 1) & (flat < 0.9)
    if np.count_nonzero(known) < _FEWEST:
        return math.nan
    left = (1 - gone[known]) / ((1 - flat[known]) * (1 - unlearned))
    return round(max(1 - float(np.median(left)), 0.0), 2)


def _zero_share(record: Record, node: Node) -> float:
    """The share of the gradient of a layer's output that is 0 in the first sampled steps; NaN if not looked at."""
    series = record.series("activation_gradient", node.layer or "")
    share = series.low_share[:_MEASURED][np.isfinite(series.rms[:_MEASURED])]
    return float(np.median(share)) if len(share) >= _FEWEST else math.nan


def _users(graph: Graph, node: Node) -> list[Node]:
    """The nodes that work on what a node gives, behind changes of shape."""
    found, waiting = [], list(graph.consumers(node.id))
    for _ in range(20):
        if not waiting:
            break
        above = waiting.pop()
        if is_pass(above) and not is_dropout(above):
            waiting += graph.consumers(above.id)
        else:
            found.append(above)
    return found or [node]


def _feeding(graph: Graph, node: Node) -> tuple[Node | None, bool]:
    """The linear node that feeds a node through at most activations, and whether a ReLU is among these."""
    relu = False
    for _ in range(8):
        inputs = graph.inputs(node.id)
        if len(inputs) != 1:
            break
        node = inputs[0]
        if is_linear(node):
            return node, relu
        relu = relu or function_of(node) == "relu"
        if is_dropout(node) or not (is_pass(node) or function_of(node) == "relu" or node.op.startswith(_NEVER_FLAT)):
            break
    return None, relu
