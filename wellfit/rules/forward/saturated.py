"""Hidden units that sit on the flat ends of tanh or sigmoid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record, Series
from wellfit.rule import Rule
from wellfit.rules.layering import activation_place, is_gate, outermost

_SQUASHING = ("tanh", "sigmoid")


class Saturated(Rule):
    """Hidden tanh or sigmoid units driven to their flat ends.

    What it checks
        The share of a hidden layer's outputs with |y| > 0.97 (of a sigmoid: beyond 0.985 or below 0.015). Above
        `flat_share` in the last `sustained` sampled steps is a finding: an error when the run is not doing its job, or
        when it was above `start_share` from the first steps on; else a note. An output layer is told only above
        `all_of_it` in a run that is not doing its job.

    Why it hurts
        On its flat ends the function has a slope of almost 0, and the gradient of all that comes before is multiplied
        by it: those layers learn very slowly or not at all.

    Cure
        Use Xavier's initialisation, standardise the inputs, put a normalisation before the activation, or lower the
        learning rate if the units were fine at the start.

    Fix safety
        All of these change the model or its data: they have to be judged by a run from the start.

    When it is wrong
        Gates and binary codes live on their ends on purpose: gates that are multiplied with something and the output
        layer are left out. Healthy hidden layers were seen with up to 25 %.

    References
        Glorot, Bengio: Understanding the difficulty of training deep feedforward neural networks (2010).
    """

    code = "FWD303"
    name = "saturated"
    family = "forward"
    summary = "hidden tanh or sigmoid units on their flat ends: no gradient passes"
    reads = ("activation.saturated", "loss")
    consequences = (
        "vanishing",
        "exploding",
        "output-collapse",
        "rank-collapse",
        "plateau",
        "zero-grad-param",
        "initial-loss",
    )
    fixes = (
        Fix("Scale the inputs and initialise with Xavier's method", override="init=xavier"),
        Fix("Put a normalisation before the activation", override="norm=batch"),
    )

    flat_share: float = 0.5  # share of outputs; healthy runs reach 0.25, faulty ones show 0.84
    start_share: float = 0.6  # share of outputs in each of the first samples: wrong from the start, not learned
    all_of_it: float = 0.99  # share of outputs of the last layer: then nothing gets a gradient
    sustained: int = 10  # sampled steps
    learned: float = 0.5  # fall of the loss from which a network that began saturated does its job all the same

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 64)
        y = (x[:, 0] > 0).long()
        first, second = nn.Linear(64, 64), nn.Linear(64, 64)
        nn.init.constant_(first.bias, 6.0)
        nn.init.constant_(second.bias, -6.0)
        model = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(64, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(80):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 64)
        y = (x[:, 0] > 0).long()
        model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(80):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        ends = outermost(record)
        how = condition(record)
        squashed = _squashed(record)
        hidden = [layer for layer in squashed if layer.name not in ends]
        found = [(layer, share) for layer in squashed if (share := self._sustained(_shares(record, layer))) > 0]
        found = [(layer, share) for layer, share in found if not is_gate(record, layer)]
        # An output may well be sure of itself; one that is flat altogether gives no gradient to anything.
        found = [(layer, share) for layer, share in found if layer in hidden or (share > self.all_of_it and how.ill)]
        if not found:
            return
        layer, share = found[0]
        worst = max(found, key=lambda pair: pair[1])
        first = [_shares(record, layer)[:5] for layer, _ in found]
        from_start = found[0][0] in hidden and any(len(shares) and shares.min() > self.start_share for shares in first)
        series = record.series("activation", layer.name)
        others = f" ({len(found)} of {len(squashed)} such layers)" if len(found) > 1 else ""
        since = "from the start" if from_start else "for the last sampled steps"
        yield self.finding(
            f"`{layer.name}` is saturated{others}: {worst[1]:.0%} of the {layer.activation} outputs of "
            f"`{worst[0].name}` lie on its flat ends {since}, where hardly any gradient passes; scale inputs "
            "and initial weights down (Xavier), or normalise before the activation",
            severity="error" if how.ill or (from_start and not how.adversarial and how.fall < self.learned) else "note",
            step=int(series.step[min(self.sustained, len(series)) - 1]),
            layer=layer.name,
            location=activation_place(record, layer),
            evidence={
                "saturated_share": worst[1],
                "threshold": self.flat_share,
                "layers": len(found),
                "loss": how.verdict,
            },
            sure=len(series) >= 2 * self.sustained or record.finished,
            from_start=from_start,
        )

    def _sustained(self, shares: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        """The lowest share over the last samples if all are above the threshold, else 0."""
        last = shares[-self.sustained :]
        return float(last.min()) if len(last) >= self.sustained and last.min() > self.flat_share else 0.0


def _shares(record: Record, layer: Layer) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    series: Series = record.series("activation", layer.name)
    shares = series.high_share
    if layer.kind != "activation":  # which function follows a layer is not known before its first backward call
        shares = shares[1:]
    result: np.ndarray[tuple[int], np.dtype[np.float64]] = shares[np.isfinite(shares)]
    return result


def _squashed(record: Record) -> list[Layer]:
    """Layers followed by tanh or sigmoid, and such modules that do not follow such a layer at once."""
    called = [layer for layer in record.layers.values() if layer.order >= 0 and layer.activation in _SQUASHING]
    weighted = {layer.order for layer in called if layer.kind in ("linear", "norm")}
    return [
        layer
        for layer in called
        if layer.kind in ("linear", "norm") or (layer.kind == "activation" and layer.order - 1 not in weighted)
    ]
