"""GRD409: a bias that batch norm takes away again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix, Severity
from wellfit.record import Graph, Layer, Node, Parameter, Record
from wellfit.rule import Family, Rule
from wellfit.rules.batch_norms import batch_norms
from wellfit.rules.wiring import early_graphs, is_linear, is_norm

_MOVES = ("Transpose", "Permute", "TBackward", "Unsqueeze", "Squeeze", "Clone")  # of axes: a bias keeps its channel


class UselessBias(Rule):
    """A layer adds a bias to each channel, and the batch norm behind it subtracts it again with the channel's mean.

    What it checks
        In the graph of the first step: a batch norm in train mode that is fed by a linear layer or convolution with a
        trained bias, with nothing but moves of axes between; the bias has as many elements as the norm has channels,
        and neither it nor what the layer gives is used elsewhere. It is always a note.

    Why it hurts
        Hardly. The bias has no effect and its gradient is 0 but for rounding, so it costs memory and a little time in
        every step: in the layer, in the optimizer, and on the wire between processes. Weight decay lets it shrink, and
        Adam lets it wander, without any effect on what the model answers.

    Cure
        Make the layer with bias=False; the norm's own bias does its work.

    Fix safety
        Safe: the model answers as before, up to rounding. Files of weights that hold the bias must then be loaded
        without it.

    When it is wrong
        Where batch norm is later folded into the layer for inference the bias comes back on its own; nothing is lost.

    References
        Ioffe, Szegedy 2015, "Batch normalization", section 3.2: "the bias b can be ignored". NeuraLint has this rule.
    """

    code = "GRD409"
    name = "useless-bias"
    family: ClassVar[Family] = "backward"
    worst: ClassVar[Severity] = "note"
    summary = "a bias that batch norm takes away again"
    reads = ("graph", "norm", "parameter")
    fixes = (Fix("Make the layer with bias=False", safe=True),)

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 16)
        y = (x[:, 0] * x[:, 1] > 0).long()
        model = nn.Sequential(
            nn.Linear(16, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 2),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 16)
        y = (x[:, 0] * x[:, 1] > 0).long()
        model = nn.Sequential(
            nn.Linear(16, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 2),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        norms = {layer.name: layer for layer, _ in batch_norms(record)}
        if not norms:
            return
        found: dict[str, tuple[Parameter, Layer]] = {}
        for graph in early_graphs(record):
            for node in graph.nodes:
                norm = norms.get(node.layer or "") if is_norm(node) else None
                bias = _bias_below(record, graph, node) if norm is not None else None
                if norm is not None and bias is not None:
                    found.setdefault(bias.name, (bias, norm))
        if not found:
            return
        bias, norm = next(iter(found.values()))
        layer = record.layers.get(bias.layer)
        more = f" (and {len(found) - 1} more like it)" if len(found) > 1 else ""
        yield self.finding(
            f"`{bias.name}`{more} has no effect: batch norm `{norm.name}` subtracts the mean of each channel and the "
            "bias with it, so it is stored, sent and stepped for nothing; make the layer with bias=False",
            severity="note", step=0, layer=bias.layer, location=layer.location if layer is not None else norm.location,
            evidence={"biases": list(found)[:20], "elements": sum(bias.size for bias, _ in found.values())},
        )  # fmt: skip


def _bias_below(record: Record, graph: Graph, norm: Node) -> Parameter | None:
    """The trained bias of the one layer that feeds a batch norm and nothing else."""
    channels = next((below.shape for below in graph.inputs(norm.id) if below.op == "AccumulateGrad"), None)
    data = [below for below in graph.inputs(norm.id) if below.op != "AccumulateGrad"]
    if len(data) != 1:
        return None
    node = data[0]
    for _ in range(6):
        if len(graph.consumers(node.id)) != 1:
            return None
        if is_linear(node):
            break
        inputs = graph.inputs(node.id)
        if len(inputs) != 1 or not node.op.startswith(_MOVES):
            return None
        node = inputs[0]
    if not is_linear(node):
        return None
    for below in graph.inputs(node.id):
        bias = record.parameters.get(below.parameter or "")
        if bias is None or len(bias.shape) != 1 or not bias.requires_grad or len(graph.consumers(below.id)) != 1:
            continue
        if channels is None or tuple(channels) == tuple(bias.shape):
            return bias
    return None
