"""INI204: the function at the model's end does not go with its loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import REGRESSIONS, condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Graph, Loss, Node, Record
from wellfit.rule import Rule
from wellfit.rules import wiring
from wellfit.rules.softmax_axis import wrong_axis
from wellfit.source import applied_at

_SQUASHED = {
    "softmax": "probabilities squashed a second time differ by at most a factor e, so the loss cannot come near 0",
    "sigmoid": "scores held between 0 and 1 differ too little, so the loss cannot come near 0",
    "relu": "a score below 0 becomes 0 and gets no gradient, so classes die one after the other",
    "tanh": "scores held between -1 and 1 differ too little, so the loss cannot come near 0",
}


class LossHeadMismatch(Rule):
    """The last function of the model does not go with the loss.

    What it checks
        Which functions stand, in the autograd graph of the first steps, between the last linear layer and the loss:
        softmax, sigmoid, ReLU or tanh before a cross-entropy (which takes raw scores); probabilities or raw scores
        before nll_loss (which takes log-probabilities); a softmax over the samples instead of the classes; sigmoid,
        softmax or ReLU before BCE with logits; softmax over a single unit; cross-entropy with a single output; the
        logarithm of ReLU outputs; a regression whose targets leave the range of its last function by more than
        `out_of_range` of their rms.

    Why it hurts
        The program runs and the loss may even fall, but it cannot fall far: gradients are squashed twice, or gone.
        A softmax or cross-entropy over one unit is constant and teaches nothing.

    Cure
        Give the loss what it expects: raw scores for cross-entropy and BCE with logits, log-probabilities for
        nll_loss, an unbounded output for a regression.

    Fix safety
        Unsafe: the model's output means something else afterwards (apply softmax or sigmoid where probabilities are
        wanted).

    When it is wrong
        Scores that are bounded on purpose, and scaled before the loss, are not reported; scores bounded on purpose
        and not scaled are. log_softmax before cross-entropy does no harm and is a note.

    References
        Goodfellow et al., Deep Learning (2016), 6.2.2; NeuraLint (2021), UMLAUT (2021) list the same faults.
    """

    code = "INI204"
    name = "loss-head-mismatch"
    family = "initialisation"
    summary = "the model's last function does not go with its loss"
    reads = ("graph", "loss", "target", "output")
    consequences = (
        "initial-loss",
        "plateau",
        "output-collapse",
        "rank-collapse",
        "dead-units",
        "saturated",
        "zero-grad-param",
        "vanishing",
        "lr-low",
        "diverged",
        "init-gain",
        "sign-or-minimum",
    )
    fixes = (Fix("Let the last function and the loss go together", override="loss=pair"),)

    out_of_range: float = 0.25  # share of the targets' rms that lies outside the head's range (0 if reachable)

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3), nn.Softmax(dim=1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        said: set[tuple[str, Location | None]] = set()
        for finding in self._all(record):
            key = (finding.message, finding.location)
            if key not in said:
                said.add(key)
                yield finding

    def _all(self, record: Record) -> Iterator[Finding]:
        graphs = wiring.early_graphs(record)
        for loss in record.losses.values():
            if loss.training:
                single = self._single_output(loss, graphs)
                if single is not None:
                    yield single
        for graph in graphs:
            heads = set()
            for loss in record.losses.values():
                if not loss.training:
                    continue
                for node in wiring.predictions(graph, loss.function):
                    heads.add(node.id)
                    yield from self._functional(record, graph, loss, node)
            yield from self._hand_written(record, graph, heads)

    # The functions of torch ----------------------------------------------------------------------------------------

    def _functional(self, record: Record, graph: Graph, loss: Loss, prediction: Node) -> Iterator[Finding]:
        links = wiring.chain(graph, prediction)
        names = [wiring.function_of(link) for link in links]
        one = self._one_unit(record, graph, loss, links, names) or self._axis(record, graph, loss, prediction)
        if one is not None:
            yield one
        elif loss.function == "cross_entropy":
            yield from self._scores(record, links, names, "cross_entropy")
        elif loss.function == "nll_loss":
            yield from self._log_probabilities(record, loss, links, names)
        elif loss.function == "binary_cross_entropy_with_logits":
            yield from self._scores(record, links, names, loss.function)
        elif loss.function == "binary_cross_entropy":
            if names and names[0] in ("sigmoid", "softmax"):
                yield from self._scores(record, links[1:], names[1:], f"the {names[0]}")
            elif names and names[0] in ("relu", "tanh"):
                yield self._mismatch(record, links[0], names[0], loss.function, "it takes probabilities", "use sigmoid")
        elif loss.function in REGRESSIONS:
            yield from self._regression(record, loss, links, names)

    def _scores(self, record: Record, links: list[Node], names: list[str | None], before: str) -> Iterator[Finding]:
        """Something that squashes stands where raw scores are expected."""
        name = names[0] if names else None
        if name == "log_softmax" and before == "cross_entropy":
            where = applied_at(record, links[0].layer, links[0].location)
            yield self.finding(
                "log_softmax stands before cross_entropy, which applies it itself: harmless, for a second time changes "
                "nothing; leave it out or use nll_loss",
                severity="note", layer=links[0].layer, location=where, evidence={"function": "log_softmax"},
            )  # fmt: skip
            yield from self._scores(record, links[1:], names[1:], "log_softmax")
        elif name in _SQUASHED:
            if name == "tanh" and before != "cross_entropy":
                return
            yield self._mismatch(record, links[0], name, before, _SQUASHED[name])

    def _log_probabilities(
        self, record: Record, loss: Loss, links: list[Node], names: list[str | None]
    ) -> Iterator[Finding]:
        name = names[0] if names else None
        if name == "log_softmax":
            yield from self._scores(record, links[1:], names[1:], "log_softmax")
        elif name in ("softmax", "sigmoid", "relu", "tanh"):
            why = "it takes log-probabilities, and of anything else the loss falls below 0 and stalls"
            yield self._mismatch(record, links[0], name, "nll_loss", why)
        elif links and wiring.is_linear(links[0]) and wiring.weight_of(record_graph(record, links[0]), links[0]):
            yield self.finding(
                f"nll_loss is given the raw scores of {_quoted(links[0].layer)}: it takes log-probabilities, and raw "
                "scores let the loss fall below 0 without end; apply log_softmax first or use cross_entropy",
                severity="error", step=0, layer=links[0].layer, location=loss.location or links[0].location,
                evidence={"loss": "nll_loss", "head": links[0].op},
            )  # fmt: skip

    def _regression(self, record: Record, loss: Loss, links: list[Node], names: list[str | None]) -> Iterator[Finding]:
        name = names[0] if names else None
        floor, roof = {"relu": (0.0, np.inf), "sigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0)}.get(
            name or "", (-np.inf, np.inf)
        )
        target = record.series("target", str(loss.id))
        if not len(target) or name is None:
            return
        low, high, rms = (float(np.median(part)) for part in (target.low, target.high, target.rms))
        outside = max(floor - low, high - roof, 0.0)
        if not np.isfinite(outside) or outside <= self.out_of_range * rms or rms == 0:
            return
        held = "gives no value below 0" if name == "relu" else f"gives values between {floor:g} and {roof:g} only"
        yield self.finding(
            f"the model ends in {name}, which {held}, but the targets go from {low:.3g} to {high:.3g}: many cannot be "
            "reached, and units that try get no gradient; end the model with its linear layer, or scale the targets",
            severity="error", step=0, layer=links[0].layer,
            location=applied_at(record, links[0].layer, links[0].location) or loss.location,
            evidence={"target_low": low, "target_high": high, "outside": outside, "limit": self.out_of_range * rms},
        )  # fmt: skip

    # One unit ------------------------------------------------------------------------------------------------------

    def _single_output(self, loss: Loss, graphs: list[Graph]) -> Finding | None:
        """A cross-entropy that has just one class to choose from, or takes the batch for the classes."""
        shape, target = loss.prediction_shape, loss.target_shape
        if loss.function != "cross_entropy" or not shape:
            return None
        floats = loss.target_dtype.startswith(("float", "bfloat"))
        if len(shape) == 1 and floats and target == shape and _head_width(graphs, loss) == 1:
            return self.finding(
                f"cross_entropy is given one number for each of {shape[0]} samples and takes the batch for a list of "
                "classes: softmax runs over the samples, so the loss means nothing; use mse_loss for a regression, "
                "binary_cross_entropy_with_logits for two classes",
                severity="error", step=0, location=loss.location, evidence={"outputs": 1, "batch": shape[0]},
            )  # fmt: skip
        if len(shape) < 2 or shape[1] != 1:
            return None
        return self.finding(
            "cross_entropy is given a single output: its softmax is always exactly 1, so the loss is constant and no "
            "gradient comes back; use binary_cross_entropy_with_logits for two classes, mse_loss for a regression, or "
            "one output for each class",
            severity="error", step=0, location=loss.location,
            evidence={"outputs": 1, "shape": ", ".join(map(str, shape))},
        )  # fmt: skip

    def _one_unit(
        self, record: Record, graph: Graph, loss: Loss | None, links: list[Node], names: list[str | None]
    ) -> Finding | None:
        """A softmax over one unit at the model's end."""
        if not names or names[0] not in ("softmax", "log_softmax"):
            return None
        node = links[0]
        layer = record.layers.get(node.layer or "")
        axis = layer.attributes.get("dim") if layer is not None and layer.kind == "activation" else None
        shape = node.shapes[0] if node.shapes else None
        width = shape[axis] if shape and isinstance(axis, int) and -len(shape) <= axis < len(shape) else None
        if width is None:
            width = shape[-1] if shape else _width(graph, links[-1])
            output = record.series("output", str(loss.id)) if loss is not None else None
            constant = 1.0 if names[0] == "softmax" else 0.0
            if output is not None and len(output) and not (output.low[0] == constant == output.high[0]):
                return None
        if width != 1:
            return None
        where = applied_at(record, node.layer, node.location)
        return self.finding(
            f"{names[0]} over a single unit: the model's output is exactly {1 if names[0] == 'softmax' else 0} for "
            "every input, and no gradient comes back; use sigmoid for two classes, no function for a regression",
            severity="error", step=0, layer=node.layer, location=where,
            evidence={"units": 1, "function": names[0] or ""},
        )  # fmt: skip

    def _axis(self, record: Record, graph: Graph, loss: Loss, prediction: Node) -> Finding | None:
        """A softmax that sums over the samples, or over places, where the loss looks for classes."""
        wrong = wrong_axis(graph, loss, prediction)
        if wrong is None or not (wrong.certain or condition(record).ill):
            return None
        node, name = wrong.node, wiring.function_of(wrong.node)
        layer = record.layers.get(node.layer or "")
        module = layer if layer is not None and layer.kind == "activation" else None
        what = f"`{node.layer}` ({name})" if module is not None else str(name)
        over = "the samples of a batch" if wrong.axis == 0 else "another axis than the classes"
        return self.finding(
            f"{what} runs over axis {wrong.axis} of {wrong.shape}, {over}, while the classes of {loss.function} "
            f"lie on axis {wrong.classes}: the classes of a sample do not share its probability, and what the "
            f"model says of one sample hangs on the others; give it dim={wrong.classes}",
            severity="error", step=0, layer=node.layer,
            location=(module.location if module is not None else None) or node.location or loss.location,
            evidence={"axis": wrong.axis, "class_axis": wrong.classes, "shape": ", ".join(map(str, wrong.shape))},
            sure=wrong.certain or record.finished,
        )  # fmt: skip

    # Losses written by hand ----------------------------------------------------------------------------------------

    def _hand_written(self, record: Record, graph: Graph, heads: set[int]) -> Iterator[Finding]:
        known = {loss.function for loss in record.losses.values()}
        for node in wiring.head_region(graph):
            name = wiring.function_of(node)
            if node.function in known or node.id in heads or name not in ("softmax", "log_softmax", "log"):
                continue
            links = wiring.chain(graph, node)
            names = [wiring.function_of(link) for link in links]
            if name == "log":
                yield from self._logarithm(record, graph, node)
                continue
            one = self._one_unit(record, graph, None, links, names)
            if one is not None and wiring.is_linear(links[-1]):
                yield one
            elif name == "log_softmax":
                yield from self._scores(record, links[1:], names[1:], "log_softmax")

    def _logarithm(self, record: Record, graph: Graph, log: Node) -> Iterator[Finding]:
        """The logarithm of what a ReLU gave: 0 for every unit that is off."""
        waiting, seen = [log], {log.id}
        while waiting and len(seen) < 20:
            node = waiting.pop(0)
            for below in graph.inputs(node.id):
                if below.id in seen:
                    continue
                seen.add(below.id)
                inputs = graph.inputs(below.id)
                if wiring.function_of(below) == "relu" and inputs:
                    if wiring.is_linear(wiring.skip_passes(graph, inputs[0])):
                        why = "where the ReLU gives 0 the logarithm is a constant and no gradient comes back"
                        cure = "take log_softmax of the scores, or cross_entropy"
                        yield self._mismatch(record, below, "relu", "a logarithm (cross-entropy by hand)", why, cure)
                    return
                if below.op.startswith(("Clamp", "Div", "Add", "Sum")) or wiring.is_pass(below):
                    waiting.append(below)

    def _mismatch(
        self, record: Record, node: Node, name: str, before: str, why: str,
        cure: str = "take it out: the loss takes raw scores",
    ) -> Finding:  # fmt: skip
        layer = record.layers.get(node.layer or "")
        own = layer is not None and layer.kind == "activation"
        called = f"`{node.layer}` ({name})" if own else name
        return self.finding(
            f"{called} stands before {before}: {why}; {cure}",
            severity="error", step=0, layer=node.layer, location=applied_at(record, node.layer, node.location),
            evidence={"function": name, "before": before},
        )  # fmt: skip


def record_graph(record: Record, node: Node) -> Graph:
    """The graph that holds a node."""
    return next(graph for graph in record.graphs if graph.node(node.id) is node)


def _width(graph: Graph, node: Node) -> int | None:
    """Units that a linear node gives, from the shape of its weight."""
    weight = wiring.weight_of(graph, node) if wiring.is_linear(node) else None
    return weight.shape[0] if weight is not None and weight.shape else None


def _head_width(graphs: list[Graph], loss: Loss) -> int | None:
    for graph in graphs:
        for prediction in wiring.predictions(graph, loss.function):
            links = wiring.chain(graph, prediction)
            return _width(graph, links[-1]) if links else None
    return None


def _quoted(layer: str | None) -> str:
    return f"`{layer}`" if layer else "a linear layer"
