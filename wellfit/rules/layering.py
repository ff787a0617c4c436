"""How layers lie between the input and the loss: heads, gates, and the chain of weights that a gradient runs along."""

from __future__ import annotations

from collections import deque

import numpy as np

from wellfit.finding import Location
from wellfit.record import Graph, Layer, Node, Record, Series

_WEIGHTED = ("linear", "recurrent", "attention", "embedding")
_SQUASH = {"sigmoid": "SigmoidBackward", "tanh": "TanhBackward"}
_MERELY_SHAPE = (
    "View",
    "Reshape",
    "Transpose",
    "Permute",
    "Unsqueeze",
    "Squeeze",
    "Expand",
    "Slice",
    "Select",
    "Clone",
)


def first_input(record: Record) -> tuple[str, int, Series] | None:
    """Name of the model that is called first in a step, and the series of its first floating-point argument."""
    orders = {name: place for place, name in enumerate(record.layers)}
    parts = [subject.rpartition("#") for subject in record.subjects("input")]
    given = [(orders.get(root, len(orders)), int(number), root) for root, _, number in parts if number.isdigit()]
    if not given:
        return None
    _, argument, root = min(given)
    return root, argument, record.series("input", f"{root}#{argument}")


def first_layer(record: Record) -> Layer | None:
    """The layer with weights, or norm, that is called first; None if there is none."""
    kinds = ("linear", "norm", "embedding", "recurrent", "attention")
    return next((layer for layer in record.layers.values() if layer.order >= 0 and layer.kind in kinds), None)


def outermost(record: Record) -> set[str]:
    """Names of the layers that nothing with weights stands behind: heads, and the activations after them.

    Without a graph it is the last linear layer and all that was called after it.
    """
    kinds = {name: layer.kind for name, layer in record.layers.items()}
    names: set[str] = set()
    for graph in record.graphs:
        names |= _frontier(graph, kinds)
    if names:
        return names
    called = [layer for layer in record.layers.values() if layer.order >= 0]
    last = max((layer.order for layer in called if layer.kind == "linear"), default=0)
    return {layer.name for layer in called if layer.order >= last}


def _frontier(graph: Graph, kinds: dict[str, str]) -> set[str]:
    seen: set[str] = set()
    queue, met = deque([0] if graph.loss else []), {0}
    while queue:
        node = graph.node(queue.popleft())
        if node is None:
            continue
        if node.layer is not None and kinds.get(node.layer) in (*_WEIGHTED, "activation"):
            seen.add(node.layer)
            if kinds[node.layer] in _WEIGHTED:
                continue
        for below in node.next:
            if below not in met:
                met.add(below)
                queue.append(below)
    return seen


def is_gate(record: Record, layer: Layer) -> bool:
    """Whether the sigmoid or tanh of this layer is multiplied with something else that was computed."""
    op = _SQUASH.get(layer.activation or "")
    if op is None or not record.graphs:
        return False
    graph = record.graphs[0]
    nodes = [node for node in graph.nodes if node.op.startswith(op) and _belongs(graph, node, layer)]
    return any(_multiplied(graph, node) for node in nodes)


def _belongs(graph: Graph, node: Node, layer: Layer) -> bool:
    return node.layer == layer.name or any(below.layer == layer.name for below in graph.inputs(node.id))


def _multiplied(graph: Graph, node: Node) -> bool:
    at = node
    for _ in range(6):
        above = graph.consumers(at.id)
        if any(user.op.startswith("MulBackward") and len(set(user.next)) > 1 for user in above):
            return True
        if len(above) != 1 or not above[0].op.startswith(_MERELY_SHAPE):
            return False
        at = above[0]
    return False


def chains(record: Record) -> list[list[Layer]]:
    """For each optimizer the linear layers that have gradients of their output, in the order they were called."""
    layers = record.layers
    holder = {p.layer: p.optimizer for p in record.parameters.values() if p.requires_grad and len(p.shape) > 1}
    found: dict[int | None, list[Layer]] = {}
    for name in record.subjects("activation_gradient"):
        layer = layers.get(name)
        if layer is not None and layer.kind == "linear" and layer.order >= 0 and layer.name in holder:
            found.setdefault(holder[layer.name], []).append(layer)
    return [sorted(chain, key=lambda layer: layer.order) for chain in found.values() if len(chain) > 1]


def called_models(record: Record) -> set[str]:
    """The names of whole models, and of their classes: what calls of train() and eval() are told of before a model has
    a name."""
    return {key for name, layer in record.layers.items() if layer.is_root for key in (name, layer.class_name)}


def activation_place(record: Record, layer: Layer) -> Location | None:
    """The line of the activation that follows a layer: the call, or where the module was made; else the layer's own."""
    if layer.activation is None or layer.activation_location is not None:
        return layer.activation_location or layer.location
    modules = [m for m in record.layers.values() if m.kind == "activation" and m.activation == layer.activation]
    after = [m for m in modules if m.order > layer.order]
    return (after or modules or [layer])[0].location


def answers_alike(record: Record, limit: float) -> bool:
    """Whether a model's last predictions hardly depend on the sample: their batch variation is below `limit`."""
    for subject in record.subjects("output"):
        variation = record.series("output", subject).a[-5:]
        if len(variation) and float(np.max(np.nan_to_num(variation, nan=1.0))) < limit:
            return True
    return False


def first_backward(record: Record, site: int | None = None) -> Location | None:
    """The line of a backward site; None is the one with most steps."""
    if site is None:
        site = next(iter(record.loss_sites()), -1)
    known = record.backward_sites.get(site)
    return known.location if known is not None else None
