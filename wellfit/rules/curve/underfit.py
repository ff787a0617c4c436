"""CRV606: the model is too small for the task, as a bottleneck in it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import classes, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Graph, Layer, Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.layering import outermost
from wellfit.rules.wiring import data_inputs, early_graphs, is_linear, weight_of


class Underfit(Rule):
    """A hidden layer of too few units, and a training loss that came to rest high.

    What it checks
    A finished classification of `steps` steps or more whose training loss ends above `unlearned` of that of guessing,
    and hardly falls any more: less than `rest` of all that it fell by in the last third. And in the model a hidden
    layer whose number of units is below log2 of the number of classes: it cannot even give each class a code of 0 and
    1. All that the loss knows of a sample must go through it: a layer with a way around it is left out.

    Why it hurts
    All that the later layers know of a sample is in these few numbers. No training makes the model better than they
    are.

    Cure
    Make the layer wider: at least as wide as there are classes, or leave it out.

    Fix safety
    Another model: it has to be trained again.

    When it is wrong
    A narrow layer that is there to be looked at, as in a plot of two dimensions, may cost little; a run that learns
    well with it is not named.

    References
    Goodfellow, Bengio and Courville 2016, "Deep Learning", section 5.2, on capacity.
    """

    code = "CRV606"
    name = "underfit"
    family: ClassVar[Family] = "curve"
    summary = "a bottleneck in the model, and a training loss that stays high"
    reads = ("loss", "layer")
    consequences = ("plateau", "lr-low", "output-collapse", "vanishing")
    fixes = (Fix("Make the hidden layers wider", override="width=2"),)

    unlearned: float = 0.5  # loss at the end over that of guessing; runs that learn end far below
    rest: float = 0.2  # share of the fall that came in the last third; 0.33 is a straight line
    steps: int = 100  # steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Tanh(), nn.Linear(1, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _epoch in range(15):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        count = classes(record)
        if not record.finished or count is None or count < 3 or record.step_count < self.steps:
            return
        state = condition(record)
        if state.adversarial or state.verdict in ("non-finite", "diverging", "too-short"):
            return
        if not fits_poorly(state, self.unlearned) or not self._rests(record.loss().value):
            return
        narrow = self._narrowest(record, count)
        if narrow is None:
            return
        layer, units = narrow
        yield self.finding(
            f"`{layer.name}` has {units} unit{'s' if units > 1 else ''} for {count} classes, so all that the rest of "
            f"the model knows of a sample is {'these' if units > 1 else 'one'} number{'s' if units > 1 else ''}, and "
            f"the loss rests at {state.end:.3g} ({state.chance:.3g} is guessing); make it wider",
            severity="error", layer=layer.name, location=layer.location,
            evidence={"units": units, "classes": count, "end": state.end, "chance": state.chance},
        )  # fmt: skip

    def _rests(self, value: Floats) -> bool:
        """Whether most of the fall came before the last third of the run."""
        seen = value[np.isfinite(value)]
        tenth = max(1, len(seen) // 10)
        if len(seen) < self.steps:
            return False
        start, end = float(np.mean(seen[:tenth])), float(np.mean(seen[-tenth:]))
        before = len(seen) * 2 // 3
        middle = float(np.mean(seen[before - tenth : before]))
        return start <= end or middle - end < self.rest * (start - end)

    def _narrowest(self, record: Record, count: int) -> tuple[Layer, int] | None:
        """The hidden linear layer with the fewest units, too few to tell the classes apart; and how many it has."""
        ends, graphs = outermost(record), early_graphs(record)
        linear = [layer for layer in record.layers.values() if layer.kind == "linear" and layer.order >= 0]
        found: list[tuple[int, Layer]] = []
        for layer in linear:
            units, given = layer.attributes.get("out_features"), layer.attributes.get("in_features")
            if layer.name in ends or not isinstance(units, int) or not isinstance(given, int):
                continue
            if len(layer.input_shape or ()) > 2:
                continue  # so many numbers at each of many places
            taken = any(o.attributes.get("in_features") == units and o.order > layer.order for o in linear)
            if taken and given > units and units < math.log2(count) and graphs and _holds_all(graphs[0], layer):
                found.append((units, layer))
        return min(((layer, units) for units, layer in found), key=lambda pair: pair[1], default=None)


def _holds_all(graph: Graph, layer: Layer) -> bool:
    """Whether the loss depends on a layer, and on what the model is given only through it."""
    met, waiting, reached = {0}, [0], False
    while waiting:
        node = graph.node(waiting.pop())
        if node is None or node.op == "AccumulateGrad":
            continue
        weight = weight_of(graph, node) if is_linear(node) else None
        if weight is not None and weight.parameter in layer.parameters:
            reached = True
            continue
        takes = is_linear(node) or node.op.startswith("Embedding")
        if takes and not data_inputs(graph, node):
            return False  # it is given what no layer has seen before
        for below in graph.inputs(node.id):
            if below.id not in met:
                met.add(below.id)
                waiting.append(below.id)
    return reached
