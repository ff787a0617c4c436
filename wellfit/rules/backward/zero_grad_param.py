"""Parameters that should learn and whose gradient is exactly 0."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding
from wellfit.record import Layer, Record
from wellfit.rule import Rule


class ZeroGradParam(Rule):
    """Layers whose parameters all have a gradient of exactly 0, or none, although the layer runs.

    What it checks
        Layers with trainable parameters that an optimizer holds: the largest absolute gradient was 0 in the last
        `samples` sampled steps for all of them, or they had no gradient at all. It is an error when the run is not
        doing its job, else a note.

    Why it hurts
        A parameter without gradient does not learn.

    Cure
        Find what stops the gradient: dead units, a cut in the graph, a constant loss, a result that is not used.

    Fix safety
        Nothing is changed by itself.

    When it is wrong
        Branches that are used now and then, experts that were not chosen, and losses that have reached 0 (a hinge loss
        whose margins are all met): runs that learn get a note at most, and a loss of 0 none.

    References
        SageMaker Debugger, rule AllZero; DistributedDataParallel, find_unused_parameters.
    """

    code = "GRD404"
    name = "zero-grad-param"
    family = "backward"
    summary = "layers that run and should learn have a gradient of exactly 0"
    reads = ("gradient.amax", "event.no-gradient", "loss")
    consequences = ("never-updated", "plateau", "lr-low", "vanishing")

    samples: int = 20  # sampled steps with a gradient of exactly 0

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > 0).float()
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(60):
            guess = (model(x).squeeze(1) * 0.0).sigmoid()
            loss = nn.functional.binary_cross_entropy(guess, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > 0).float()
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(60):
            guess = model(x).squeeze(1).sigmoid()
            loss = nn.functional.binary_cross_entropy(guess, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.samples:
            return
        missing = self._without(record)
        layers = [
            layer for layer in record.layers.values() if layer.order >= 0 and self._is_zero(record, layer, missing)
        ]
        how = condition(record)
        if (
            not layers
            or how.verdict == "non-finite"
            or (how.well and not abs(how.end) > 1e-6 * max(abs(how.start), 1e-12))
        ):
            return
        layer = layers[0]
        # A result that no loss uses is no illness by itself.
        unused = all(name in missing for each in layers for name in each.parameters)
        held = sum(1 for each in record.layers.values() if each.parameters and each.order >= 0)
        yield self.finding(
            f"`{layer.name}` cannot learn: the gradient of its parameters was "
            f"{'missing' if unused else 'exactly 0'} in {self.samples} sampled steps "
            f"although it ran ({len(layers)} of {held} layers with "
            "parameters); look for a cut in the graph, dead units, or a constant loss",
            severity="error" if how.ill and (not unused or len(layers) == held) else "note",
            step=self._since(record, layer),
            layer=layer.name,
            location=layer.location,
            evidence={"layers": len(layers), "of": held, "samples": self.samples, "loss": how.verdict},
            sure=record.finished or record.step_count > 2 * self.samples,
        )

    def _is_zero(self, record: Record, layer: Layer, missing: set[str]) -> bool:
        parameters = [record.parameters[name] for name in layer.parameters if name in record.parameters]
        held = [p.name for p in parameters if p.requires_grad and p.optimizer is not None and p.size > 1]
        # Parameters that several layers share get their gradient where they are used.
        return bool(held) and all(name in missing or self._zero(record, name) for name in held)

    def _zero(self, record: Record, name: str) -> bool:
        series = record.series("gradient", name)
        loss = record.loss()
        amax = series.amax
        if np.any(loss.value != 0):  # a hinge that is 0 for this sample has no gradient by right
            amax = amax[loss.at(series.step) != 0]
        amax = amax[-self.samples :]
        return len(amax) >= min(self.samples, 10) and bool(np.all(amax == 0))

    def _without(self, record: Record) -> set[str]:
        """Parameters without gradient since their optimizer's last change, if that was long enough ago."""
        last = {e["optimizer"]: e for e in record.events("no-gradient")}
        long = [e for e in last.values() if record.step_count - e["step"] >= self.samples]
        return {name for event in long for name in event["parameters"] if isinstance(name, str)}

    def _since(self, record: Record, layer: Layer) -> int:
        """The step from which on the gradient of the layer's first parameter is 0; 0 if it was never measured."""
        series = record.series("gradient", layer.parameters[0]) if layer.parameters else None
        if series is None or not len(series):
            return 0
        alive = np.flatnonzero(series.amax != 0)
        return int(series.step[min(alive[-1] + 1, len(series) - 1)]) if len(alive) else int(series.step[0])
