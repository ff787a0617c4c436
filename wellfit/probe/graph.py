"""The autograd graph of a loss, as plain data: what leads from the parameters to the loss, and which line made it."""

from __future__ import annotations

from collections import deque
from typing import Any

from wellfit.probe.layers import Layer, Layers
from wellfit.probe.locate import Place
from wellfit.probe.losses import FUNCTIONS
from wellfit.probe.statistics import shape_of
from wellfit.probe.trace import Trace

NODES = 5000  # a larger graph is cut off here (breadth first from the loss)

# Nodes that hand values on unchanged: between a layer and the function that follows it they do not count.
_PASSES = (
    "View", "Reshape", "Transpose", "Permute", "TBackward", "Unsqueeze", "Squeeze", "Expand", "Slice", "Select",
    "Clone", "ToCopy", "Alias", "AsStrided", "Contiguous", "UnsafeView", "NativeDropout", "MulBackward0_dropout",
)  # fmt: skip

_FUNCTIONS = {
    "ReluBackward0": "relu", "TanhBackward0": "tanh", "SigmoidBackward0": "sigmoid", "GeluBackward0": "gelu",
    "LeakyReluBackward0": "leaky_relu", "LeakyReluBackward1": "leaky_relu", "EluBackward0": "elu",
    "SiluBackward0": "silu", "SoftplusBackward0": "softplus", "HardtanhBackward0": "hardtanh",
    "ThresholdBackward0": "relu", "ClampMinBackward0": "relu", "MishBackward0": "mish",
    "HardswishBackward0": "hardswish", "SoftmaxBackward0": "softmax", "LogSoftmaxBackward0": "log_softmax",
    "ReluBackward1": "relu", "LogSigmoidBackward0": "logsigmoid",
}  # fmt: skip


def take(loss_node: Any, trace: Trace, layers: Layers) -> list[dict[str, Any]]:
    """The graph from `loss_node` down, breadth first; node 0 is the loss.

    A node that no logged call made (the inside of a composite function) takes line and layer from the node that
    consumes it.
    """
    ids: dict[Any, int] = {loss_node: 0}
    nodes: list[dict[str, Any]] = []
    queue: deque[tuple[Any, tuple[str, Place | None, str | None] | None]] = deque([(loss_node, None)])
    while queue:
        node, above = queue.popleft()
        call = trace.call_of(node)
        mine = (call.function, call.place, call.layer) if call is not None else above
        entry: dict[str, Any] = {"id": ids[node], "op": node.name().rpartition("::")[2], "next": []}
        if mine is not None:
            entry["function"], place, entry["layer"] = mine
            if place is not None:
                entry["file"], entry["line"] = place
        if call is not None and call.shapes:
            entry["shapes"] = call.shapes
        if call is not None and call.rate is not None:
            entry["rate"] = call.rate
        entry["traced"] = call is not None
        dim = getattr(node, "_saved_dim", None) if "Softmax" in entry["op"] else None
        if isinstance(dim, int):  # autograd keeps -1 as the largest number of 64 bits
            entry["dim"] = dim - (1 << 64) if dim >> 63 else dim
        variable = getattr(node, "variable", None)
        if variable is not None:
            known = layers.parameter(variable)
            entry["parameter"] = known[0] if known else None
            maker = trace.maker(variable) if known is None else None
            if maker is not None:
                entry["file"], entry["line"] = maker
            entry["shape"] = shape_of(variable)
        for below, _ in node.next_functions:
            if below is None:
                continue
            if below not in ids:
                if len(ids) >= NODES:
                    continue
                ids[below] = len(ids)
                queue.append((below, mine))
            entry["next"].append(ids[below])
        nodes.append(entry)
    return nodes


def activations(nodes: list[dict[str, Any]], layers: dict[str, Layer]) -> None:
    """Find out which function follows each layer, where it is a call and not a module of its own."""
    consumers: dict[int, list[int]] = {}
    for node in nodes:
        for below in node["next"]:
            consumers.setdefault(below, []).append(node["id"])
    last: dict[str, dict[str, Any]] = {}
    for node in nodes:  # breadth first from the loss: the first node met of a layer is its output
        name = node.get("layer")
        if name is not None and name not in last:
            last[name] = node
    for name, node in last.items():
        layer = layers.get(name)
        if layer is None or layer.activation is not None or layer.kind not in ("linear", "norm", "container"):
            continue
        at = node
        for _ in range(4):
            above = [nodes[i] for i in consumers.get(at["id"], ())]
            if len(above) != 1:
                break
            at = above[0]
            function = _FUNCTIONS.get(at["op"])
            if at.get("function") in FUNCTIONS:  # the log_softmax within cross_entropy is the loss's own
                break
            if function is not None:
                inside = layers.get(at.get("layer") or "")
                if inside is None or inside.kind != "activation":
                    layer.activation = function
                    if "line" in at:
                        layer.activation_place = (at["file"], at["line"])
                else:
                    layer.activation = inside.activation
                break
            if not at["op"].startswith(_PASSES):
                break
