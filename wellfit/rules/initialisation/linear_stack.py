"""INI206: two linear layers in series with nothing between them that bends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Graph, Node, Record
from wellfit.rule import Rule
from wellfit.rules import wiring
from wellfit.rules.fitness import fits_poorly, settled
from wellfit.source import applied_at


@dataclass(frozen=True)
class _Pair:
    """Two linear nodes, the lower feeding the upper; `norm` if a norm layer stands between."""

    lower: Node
    upper: Node
    norm: bool


class LinearStack(Rule):
    """Linear layers follow one another without an activation function.

    What it checks
        In the autograd graph: the output of a linear or convolution layer goes, through nothing but reshapes and
        dropout, into one other such layer only. An error if `stacked_share` of all neighbouring linear layers are so
        and the loss stays above `unlearned` of its start or of chance (or does not fall at all); a note otherwise.

    Why it hurts
        Two linear maps in series are one linear map: the depth adds parameters, but no power. A model of them alone
        is a linear regression that trains badly.

    Cure
        Put an activation function between them (ReLU, GELU, tanh).

    Fix safety
        Unsafe: the model changes and must be trained again.

    When it is wrong
        Factorised layers (the middle narrower than both sides), depthwise-separable convolutions and 1x1 projections
        are linear on purpose and not reported; a deep linear network for a study is.

    References
        Goodfellow et al., Deep Learning (2016), 6.1; NeuraLint (2021); UMLAUT (2021).
    """

    code = "INI206"
    name = "linear-stack"
    family = "initialisation"
    summary = "linear layers in series without an activation between them"
    reads = ("graph", "loss")
    consequences = ("plateau", "lr-low", "output-collapse", "rank-collapse")
    fixes = (Fix("Insert an activation function between the layers"),)

    stacked_share: float = 0.5  # share of neighbouring linear layers without an activation; healthy models: 0
    unlearned: float = 0.5  # share of the first loss (or of chance) that is left; learning runs end below 0.4
    steps: int = 100  # steps before the fit of a growing run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.rand(512, 2) * 2 - 1
        y = ((x**2).sum(1) < 0.6).float()
        model = nn.Sequential(
            nn.Linear(2, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 1),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.rand(512, 2) * 2 - 1
        y = ((x**2).sum(1) < 0.6).float()
        model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        for graph in wiring.early_graphs(record):
            linear = [node for node in graph.nodes if wiring.is_linear(node) and _is_layer(record, graph, node)]
            pairs = [pair for node in linear if (pair := self._below(record, graph, node)) is not None]
            bare = [pair for pair in pairs if not pair.norm]
            if bare:
                yield self._found(record, bare, len(linear))
                return

    def _below(self, record: Record, graph: Graph, upper: Node) -> _Pair | None:
        """The linear layer that feeds this one directly, if what it gives goes nowhere else and nothing is narrow."""
        inputs = wiring.data_inputs(graph, upper)
        if len(inputs) != 1:
            return None
        node, norm = inputs[0], False
        for _ in range(30):
            if len(graph.consumers(node.id)) != 1:
                return None
            if wiring.is_linear(node):
                break
            below = [n for n in graph.inputs(node.id) if n.op != "AccumulateGrad"]
            if len(below) != 1 or not (wiring.is_pass(node) or wiring.is_norm(node)):
                return None
            norm = norm or wiring.is_norm(node)
            node = below[0]
        if not wiring.is_linear(node) or not _is_layer(record, graph, node) or node.layer == upper.layer:
            return None
        return None if _on_purpose(record, graph, node, upper) else _Pair(node, upper, norm)

    def _found(self, record: Record, pairs: list[_Pair], layers: int) -> Finding:
        state = condition(record)
        share = len(pairs) / max(layers - 1, 1)
        poor = share >= self.stacked_share and fits_poorly(state, self.unlearned)
        pair = pairs[0]  # nearest to the loss
        several = f" ({len(pairs)} of {layers - 1} neighbouring layers are so)" if len(pairs) > 1 else ""
        evidence: dict[str, float | int | str] = {"stacked": len(pairs), "linear_layers": layers, "share": share}
        if math.isfinite(state.end):
            evidence |= {"loss_start": state.start, "loss_end": state.end}
        return self.finding(
            f"`{pair.lower.layer}` feeds `{pair.upper.layer}` with no activation function between{several}: "
            "together they "
            "are no more than one linear layer; put a ReLU or GELU between them",
            severity="error" if poor else "note", step=0, layer=pair.upper.layer,
            location=applied_at(record, pair.upper.layer, pair.upper.location), evidence=evidence,
            sure=settled(record, self.steps),
        )  # fmt: skip


def _is_layer(record: Record, graph: Graph, node: Node) -> bool:
    """Whether a linear node is the work of a linear layer with a weight of its own."""
    layer = record.layers.get(node.layer or "")
    return layer is not None and layer.kind == "linear" and wiring.weight_of(graph, node) is not None


def _on_purpose(record: Record, graph: Graph, lower: Node, upper: Node) -> bool:
    """Factorised pairs, separable convolutions and 1x1 projections are linear by intention."""
    first, second = wiring.weight_of(graph, lower), wiring.weight_of(graph, upper)
    if first is None or second is None or not first.shape or not second.shape:
        return True
    middle, given, made = first.shape[0], first.shape[1], second.shape[0]
    if middle < given and middle < made:
        return True
    for weight in (first, second):
        shape = weight.shape or ()
        pointwise = len(shape) > 2 and all(length == 1 for length in shape[2:])
        depthwise = len(shape) > 2 and shape[1] == 1 and shape[0] > 1 and any(length > 1 for length in shape[2:])
        first_layer = weight is first and shape[1] in (1, 3) and _is_first(record, lower)
        if pointwise or (depthwise and not first_layer):
            return True
    return False


def _is_first(record: Record, node: Node) -> bool:
    """Whether no layer was called before this one: a convolution of grey images is not a depthwise one."""
    layer = record.layers.get(node.layer or "")
    called = [other.order for other in record.layers.values() if other.order >= 0]
    return layer is not None and bool(called) and layer.order == min(called)
