"""UPD504: the optimizer works on other tensors than the model that is trained, or another model is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.finding import Finding, Fix
from wellfit.record import Optimizer, Parameter, Record, location_of
from wellfit.rule import Family, Rule
from wellfit.rules.layering import first_backward
from wellfit.rules.loop_order import optimizer_steps

# Names of copies that are kept as they are on purpose.
_KEPT = re.compile(r"init|base|ref|control|untrained|random|start|orig|before|old|first|frozen|teacher|prior", re.I)


class WrongObject(Rule):
    """The optimizer holds the parameters of another object than the model that the loss is computed with.

    What it checks
    For each optimizer that made `steps` steps or more: parameters of it that never have a gradient, and are no part of
    any model that is called (a model that was made again, copied or wrapped after the optimizer was made, a layer that
    was replaced), while the loss reaches parameters that no optimizer holds. And a copy of the model that is evaluated
    at `looks` places in time or more, the first of them after `moved` steps or more, and then still has the very
    weights that the model began with: a running average that is never updated, a best model that is never stored.

    Why it hurts
    Each step changes tensors that nothing depends on. The model stays as it was made, or the model that is looked at is
    not the one that learns.

    Cure
    Make the optimizer last, from the model that the loop calls: after copies, wrappers, new layers and moves. Update a
    running average after each step of the optimizer.

    Fix safety
    The program means something else afterwards: what it was meant to.

    When it is wrong
    A copy of the first weights that is kept for a comparison: nothing is said where its name tells that ("control",
    "reference", "initial"). A running average that begins late: nothing is said where its evaluation loss shows that.

    References
    PyTorch documentation, torch.optim, "Constructing it"; TrainCheck (2025).
    """

    code = "UPD504"
    name = "wrong-object"
    family: ClassVar[Family] = "update"
    summary = "the optimizer holds the parameters of another object"
    reads = ("optimizer", "event.no-gradient", "graph", "event.evaluation", "parameter.initial")
    consequences = (
        "not-in-optimizer",
        "never-updated",
        "zero-grad-param",
        "plateau",
        "lr-low",
        "detached",
        "output-collapse",
        "rank-collapse",
        "frozen-intent",
        "underfit",
        "unused-module",
    )
    fixes = (Fix("Make the optimizer from the model that is trained, after all changes to it"),)

    steps: int = 3  # steps of the optimizer
    moved: int = 20  # steps after which a copy that follows the model differs from its first weights
    looks: int = 2  # evaluations of the copy, after different steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        def make() -> nn.Module:
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        model = make()
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import copy

        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        average = copy.deepcopy(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                        mean.lerp_(now, 0.05)
            with torch.no_grad():
                nn.functional.cross_entropy(average(x[1400:]), y[1400:])

    def check(self, record: Record) -> Iterator[Finding]:
        if not record.graphs or not record.optimizers:
            return
        reached = set().union(*(graph.parameters() for graph in record.graphs))
        held = {name for optimizer in record.optimizers.values() for name in optimizer.parameters}
        known = record.parameters
        free = [known[name] for name in sorted(reached - held) if name in known and known[name].requires_grad]
        free = [parameter for parameter in free if len(parameter.shape) >= 2]
        for optimizer in record.optimizers.values():
            yield from self._stepped(record, optimizer, free)
        yield from self._looked_at(record, [known[name] for name in sorted(reached & held) if name in known])

    # The optimizer --------------------------------------------------------------------------------------------------

    def _stepped(self, record: Record, optimizer: Optimizer, free: list[Parameter]) -> Iterator[Finding]:
        events = [event for event in record.events("no-gradient") if event["optimizer"] == optimizer.id]
        if not free or not events or optimizer_steps(record, optimizer.id) < self.steps:
            return
        missing = [name for name in events[-1]["parameters"] if isinstance(name, str)]
        strangers = [name for name in missing if name in optimizer.parameters and self._uncalled(record, name)]
        # Names are written for the first 256 only.
        all_of_them = events[-1]["count"] == events[-1]["total"] > 0
        if not strangers or (len(strangers) < len(missing) and all_of_them):
            return
        roots = list(dict.fromkeys(_root(record, parameter) for parameter in free))
        total = events[-1]["total"]
        what = (
            f"none of the {total} tensors that the optimizer holds ever gets a gradient"
            if all_of_them
            else f"{len(strangers)} of the {total} tensors that the optimizer holds belong to no model that is called"
        )
        more = f" and {len(free) - 1} more weights" if len(free) > 1 else ""
        yield self.finding(
            f"{what}, while the loss depends on `{free[0].name}`{more} of `{roots[0]}`, which no optimizer holds: its "
            "steps do not change them (the model was made again, copied or changed after the optimizer was made); make "
            "the optimizer from the model that is trained, after all changes to it",
            severity="error", step=self.steps, layer=free[0].layer, location=optimizer.location,
            evidence={"held": total, "without_gradient": len(missing), "free": len(free)},
            sure=record.finished or record.step_count >= self.moved,
        )  # fmt: skip

    def _uncalled(self, record: Record, name: str) -> bool:
        """Whether a parameter belongs to no module, or to a model of which nothing was ever called."""
        parameter = record.parameters.get(name)
        if parameter is None:
            return True
        layers = record.layers
        layer = layers.get(parameter.layer)
        return layer is not None and all(other.order < 0 for other in layers.values() if other.root == layer.root)

    # The model that is looked at --------------------------------------------------------------------------------------

    def _looked_at(self, record: Record, trained: list[Parameter]) -> Iterator[Finding]:
        layers = record.layers
        roots = {layers[parameter.layer].root for parameter in trained if parameter.layer in layers}
        weights = [
            p for p in trained if len(p.shape) >= 2 and p.initial.std > 0 and len(record.series("update", p.name))
        ]
        events = [event for event in record.events("evaluation") if event["root"] not in roots]
        steps = sorted({event["step"] for event in events})
        if not weights or len(steps) < self.looks or steps[0] < self.moved:
            return
        root, learning = events[0]["root"], {parameter.name for parameter in trained}
        others = [p for p in record.parameters.values() if p.optimizer is None and p.name not in learning]
        begun = {(other.shape, other.initial) for other in others}  # equal numbers when they were first seen
        copied = all((weight.shape, weight.initial) in begun for weight in weights)
        if not copied or _KEPT.search(root) or _changed_later(record, root):
            return
        yield self.finding(
            f"`{root}`, a copy of the model, is evaluated, and after {steps[0]} steps still has the "
            "weights that the model began with, so what is measured is not what was trained; update it after each step "
            "of the optimizer, or evaluate the model itself",
            severity="error", step=steps[0], layer=root,
            location=location_of(events[0]) or first_backward(record),
            evidence={"weights": len(weights), "same": len(weights), "evaluations": len(steps)},
            sure=record.finished,
        )  # fmt: skip


def _root(record: Record, parameter: Parameter) -> str:
    layer = record.layers.get(parameter.layer)
    return layer.root if layer is not None else parameter.layer


def _changed_later(record: Record, root: str) -> bool:
    """Whether losses show that a copy does learn after all: it alone is evaluated, and they do not stay the same."""
    curves = [record.evaluations(loss).value for loss in record.evaluated_losses()]
    curves = [curve for curve in curves if len(curve) > 1]
    if not curves or any(event["root"] != root for event in record.events("evaluation")):
        return False
    with np.errstate(all="ignore"):
        return not any(float(np.ptp(curve)) <= 1e-5 * abs(float(curve[0])) for curve in curves)
