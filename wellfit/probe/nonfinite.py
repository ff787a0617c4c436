"""After the first number that is not finite: which operation made it, where.

When a loss is NaN its autograd graph is still there, and with it every tensor that backward would need. Walking it in
the order of execution finds the first operation that was given finite numbers and gave back others. No part of the
user's program is run again. The line comes from the trace of an early step, whose graph has the same shape.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from wellfit.probe.layers import Layers
from wellfit.probe.statistics import Meter
from wellfit.probe.trace import Trace

NODES = 20_000
_RESULTS = {"result", "output", "result0", "out"}

_VIEWS = {
    "ExpandBackward0", "MHBackward0", "MTBackward0", "PermuteBackward0", "ReshapeAliasBackward0", "SqueezeBackward1",
    "TBackward0", "TransposeBackward0", "TransposeBackward1", "UnsafeViewBackward0", "UnsqueezeBackward0",
    "ViewBackward0",
}  # fmt: skip

# Operations whose derivative is infinite or undefined at a point where their value is finite.
FRAGILE = (
    "SqrtBackward0", "LinalgVectorNormBackward0", "NormBackward0", "NormBackward1", "NormBackward2", "PowBackward0",
    "PowBackward1", "DivBackward0", "LogBackward0", "AcosBackward0", "AsinBackward0", "Atan2Backward0",
    "CdistBackward0", "StdBackward0", "ReciprocalBackward0", "RsqrtBackward0", "ExpBackward0", "Log2Backward0",
    "Log1PBackward0",
)  # fmt: skip

# Operations that keep nothing but finite numbers when they fail: which of them, and where they are not defined.
_UNDEFINED: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "LogBackward0": ("self", lambda x: x <= 0), "Log2Backward0": ("self", lambda x: x <= 0),
    "Log10Backward0": ("self", lambda x: x <= 0), "Log1PBackward0": ("self", lambda x: x <= -1),
    "DivBackward0": ("other", lambda x: x == 0), "AcosBackward0": ("self", lambda x: x.abs() > 1),
    "AsinBackward0": ("self", lambda x: x.abs() > 1), "AtanhBackward0": ("self", lambda x: x.abs() >= 1),
}  # fmt: skip


def autopsy(loss_node: Any, layers: Layers, meter: Meter, trace: Trace, early: list[dict[str, Any]]) -> dict[str, Any]:
    """The first operation, in the order of execution, that made a number that is not finite.

    A weight that is not finite and went into it comes first: then it was not the forward pass that went wrong.

    Args:
        loss_node: grad_fn of the loss, before backward.
        early: nodes of the graph of an early step, for the user's line.

    Returns:
        fields of a `non-finite` event: where, function, layer, file, line, parameter, inputs_finite.
    """
    order, ids = _by_execution(loss_node)
    node, where, inputs_finite, seen_at = _first_bad(loss_node, order, meter)
    bad = _bad_parameter(seen_at, meter)
    if bad is not None:
        known = layers.parameter(bad)
        name = known[0] if known else "a parameter"
        return {"where": "parameter", "parameter": name, "layer": _layer_of(name, layers), "inputs_finite": False}
    return {**_said(node, where, ids, layers, trace, early), "inputs_finite": inputs_finite}


def _first_bad(loss_node: Any, order: list[Any], meter: Meter) -> tuple[Any, str, bool, Any]:
    """The node that went bad first, where that is, whether it was given finite numbers, and the node that shows it."""
    for node in order:
        saved = _saved(node, meter)
        bad_inputs = any(not ok for name, ok in saved.items() if name not in _RESULTS)
        if bad_inputs:
            found = _producer(node, meter)
            if found is not None:
                return _undefined_below(found) or found, "forward", True, node
            leaf_bad = any(below is None for below, _ in node.next_functions)
            return node, "input" if leaf_bad else "forward", False, node
        if any(not ok for ok in saved.values()):
            return node, "forward", True, node
    undefined = _undefined_below(loss_node)
    return (undefined, "forward", True, undefined) if undefined is not None else (loss_node, "loss", True, loss_node)


def unopened(loss_node: Any, layers: Layers, meter: Meter, trace: Trace, early: list[dict[str, Any]]) -> dict[str, Any]:
    """As `autopsy`, without looking at what the graph holds: only where the loss is."""
    return _said(loss_node, "loss", _by_execution(loss_node)[1], layers, trace, early)


def suspect(early: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The operation nearest to the loss whose derivative may be infinite though its value is not."""
    for op in FRAGILE[:4]:  # the ones whose derivative is infinite at zero come first
        for node in early:
            if node["op"] == op:
                return node
    return next((node for node in early if node["op"] in FRAGILE), None)


def _by_execution(loss_node: Any) -> tuple[list[Any], dict[Any, int]]:
    """Nodes in the order in which forward made them, and their breadth-first numbers as in `graph.take`."""
    ids: dict[Any, int] = {loss_node: 0}
    queue = deque([loss_node])
    nodes = []
    while queue and len(ids) < NODES:
        node = queue.popleft()
        nodes.append(node)
        for below, _ in node.next_functions:
            if below is not None and below not in ids:
                ids[below] = len(ids)
                queue.append(below)
    nodes = [n for n in nodes if getattr(n, "variable", None) is None]
    return sorted(nodes, key=lambda n: n._sequence_nr()), ids


def _saved(node: Any, meter: Meter) -> dict[str, bool]:
    """Names of the tensors that a node kept for backward, and whether each is finite."""
    finite: dict[str, bool] = {}
    for name in dir(node):
        if not name.startswith("_saved_"):
            continue
        try:
            value = getattr(node, name)
        except RuntimeError:  # already freed
            continue
        if isinstance(value, torch.Tensor) and meter.takes(value) and value.numel():
            finite[name[len("_saved_") :]] = _is_finite(value, meter)
    return finite


def _producer(node: Any, meter: Meter) -> Any:
    """The node that gave `node` a bad input; None if it was a weight or data."""
    candidates = [
        below
        for below, _ in node.next_functions
        if below is not None and getattr(below, "variable", None) is None and not _shows_finite_leaf(below, meter)
    ]
    # The nodes below were looked at already and kept only finite tensors: their result is what went bad.
    return max(candidates, key=lambda n: n._sequence_nr()) if candidates else None


def _bad_parameter(node: Any, meter: Meter) -> Any:
    """A parameter that is not finite, of those that `node` depends on; None if there is none.

    An operation keeps a weight only if its other factor needs a gradient, so the first layer's is not among the saved.
    """
    waiting, seen = deque([node]), {node}
    while waiting and len(seen) < NODES:
        for below, _ in waiting.popleft().next_functions:
            if below is None or below in seen:
                continue
            seen.add(below)
            waiting.append(below)
            variable = getattr(below, "variable", None)
            if variable is not None and meter.takes(variable) and not _is_finite(variable, meter):
                return variable
    return None


def _is_finite(tensor: torch.Tensor, meter: Meter) -> bool:
    return math.isfinite(meter.summary(tensor.detach(), 0, -1.0, math.inf)[3])


def _shows_finite_leaf(node: Any, meter: Meter) -> bool:
    """Whether a node only shows a finite leaf in another shape, as a linear layer's transposed weight is shown."""
    for _ in range(4):
        if node.name().rpartition("::")[2] not in _VIEWS or len(node.next_functions) != 1:
            return False
        node = node.next_functions[0][0]
        variable = getattr(node, "variable", None)
        if variable is not None:
            return meter.takes(variable) and _is_finite(variable, meter)
        if node is None:
            return False
    return False


def _undefined_below(node: Any) -> Any:
    """The latest operation at or below `node` that was given numbers for which it is not defined, or None."""
    for candidate in reversed(_by_execution(node)[0]):
        known = _UNDEFINED.get(candidate.name().rpartition("::")[2])
        if known is None:
            continue
        name, outside = known
        try:
            given = getattr(candidate, f"_saved_{name}", None)
        except RuntimeError:  # already freed
            continue
        if isinstance(given, torch.Tensor) and not given.is_complex() and bool(outside(given.detach()).any()):
            return candidate
    return None


def _layer_of(parameter: str, layers: Layers) -> str | None:
    return next((layer for _, name, layer in layers.parameter_names.values() if name == parameter), None)


def _said(
    node: Any, where: str, ids: dict[Any, int], layers: Layers, trace: Trace, early: list[dict[str, Any]]
) -> dict[str, Any]:
    op = node.name().rpartition("::")[2]
    said: dict[str, Any] = {
        "where": where,
        "op": op,
        "function": op.removesuffix("Backward0").lower(),
        "inputs_finite": True,
    }
    call = trace.call_of(node)
    if call is not None:
        said["function"], said["layer"] = call.function, call.layer
        if call.place is not None:
            said["file"], said["line"] = call.place
        return said
    same = early[ids[node]] if ids[node] < len(early) else None
    if same is None or same["op"] != op:
        same = next((entry for entry in early if entry["op"] == op), None)
    if same is not None:
        said |= {key: same[key] for key in ("function", "layer", "file", "line") if same.get(key) is not None}
    if said.get("layer") is None:
        said["layer"] = _nearest_layer(node, layers)
    return said


def _nearest_layer(node: Any, layers: Layers) -> str | None:
    """The layer whose parameter is nearest below the node."""
    queue, seen = deque([node]), {node}
    while queue and len(seen) < 200:
        for below, _ in queue.popleft().next_functions:
            if below is None or below in seen:
                continue
            variable = getattr(below, "variable", None)
            if variable is not None and (known := layers.parameter(variable)):
                return known[1]
            seen.add(below)
            queue.append(below)
    return None
