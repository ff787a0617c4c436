"""The autograd graph as a circuit: what kind of operation a node is, and what stands between loss and layer."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.record import Graph, Node, Record

# Operations that hand the numbers on as they are, in another shape or type.
_PASSES = (
    "View", "Reshape", "UnsafeView", "Transpose", "Permute", "TBackward", "Unsqueeze", "Squeeze", "Expand", "Slice",
    "Select", "Clone", "ToCopy", "Alias", "AsStrided", "Contiguous", "Movedim", "Unfold",
)  # fmt: skip

_LINEAR = ("Addmm", "Mm", "Bmm", "Baddbmm", "Convolution", "ThnnConv", "MkldnnConv", "Linear", "Addmv", "Mv")
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
_NORMS = ("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm", "NativeGroupNorm", "RmsNorm", "FusedRmsNorm")

_FUNCTIONS = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softmax": "softmax", "LogSoftmax": "log_softmax",
    "LogSigmoid": "logsigmoid", "Log": "log", "Threshold": "relu", "Hardtanh": "hardtanh", "Softplus": "softplus",
}  # fmt: skip


def function_of(node: Node) -> str | None:
    """The function that a node computes if it is one of the squashing kind ("softmax"), else None."""
    return _FUNCTIONS.get(node.op.partition("Backward")[0])


def is_linear(node: Node) -> bool:
    """Whether a node multiplies matrices or convolves."""
    return node.op.partition("Backward")[0] in _LINEAR or node.op.startswith(("Convolution", "MkldnnConv"))


def is_norm(node: Node) -> bool:
    """Whether a node normalises."""
    return node.op.startswith(_NORMS)


def is_dropout(node: Node) -> bool:
    """Whether a node drops values."""
    return node.function in _DROPOUTS or node.op.startswith("NativeDropout")


def is_pass(node: Node) -> bool:
    """Whether a node hands its numbers on unchanged (dropout counts as such)."""
    return node.op.startswith(_PASSES) or is_dropout(node)


def weight_of(graph: Graph, node: Node) -> Node | None:
    """The AccumulateGrad of the weight of a linear node (two axes or more), or None."""
    for below in graph.inputs(node.id):
        for _ in range(4):
            if below.op == "AccumulateGrad":
                break
            inputs = graph.inputs(below.id)
            if not is_pass(below) or len(inputs) != 1:
                break
            below = inputs[0]
        if below.op == "AccumulateGrad" and below.shape is not None and len(below.shape) >= 2:
            return below
    return None


def data_inputs(graph: Graph, node: Node) -> list[Node]:
    """The inputs of a node that are not, but for their shape, parameters."""
    found = []
    for first in graph.inputs(node.id):
        below = skip_passes(graph, first)
        if below.op != "AccumulateGrad":
            found.append(first)
    return found


def skip_passes(graph: Graph, node: Node) -> Node:
    """The first node at or below this one that does more than hand numbers on."""
    for _ in range(100):
        inputs = graph.inputs(node.id)
        if not is_pass(node) or len(inputs) != 1:
            break
        node = inputs[0]
    return node


def chain(graph: Graph, node: Node, longest: int = 40) -> list[Node]:
    """The nodes from this one down while each has just one input, without passes; ends at a linear node or a fork."""
    found: list[Node] = []
    for _ in range(longest):
        if not is_pass(node):
            found.append(node)
        inputs = graph.inputs(node.id)
        if is_linear(node) or len(inputs) != 1:
            break
        node = inputs[0]
    return found


def predictions(graph: Graph, function: str) -> Iterator[Node]:
    """For each call of a loss function in the graph, the node of the prediction that it was given."""
    for node in graph.nodes:
        if node.function != function or any(above.function == function for above in graph.consumers(node.id)):
            continue
        inputs = [node]
        while inputs and inputs[0].function == function:
            inputs = [below for below in graph.inputs(inputs[0].id) if below.op != "AccumulateGrad"]
        if len(inputs) >= 1:
            yield inputs[0]


def head_region(graph: Graph) -> list[Node]:
    """All nodes between the loss and the nearest linear nodes, the loss first; linear nodes are not among them."""
    found: list[Node] = []
    seen = {0}
    waiting = [graph.loss] if graph.loss is not None else []
    while waiting and len(found) < 300:
        node = waiting.pop(0)
        if is_linear(node) or node.op == "AccumulateGrad":
            continue
        found.append(node)
        for below in graph.inputs(node.id):
            if below.id not in seen:
                seen.add(below.id)
                waiting.append(below)
    return found


def early_graphs(record: Record) -> list[Graph]:
    """The first graph of each place that calls backward."""
    first: dict[int | None, Graph] = {}
    for graph in record.graphs:
        if graph.loss is not None:
            first.setdefault(graph.backward, graph)
    return list(first.values())
