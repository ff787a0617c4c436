"""INI201: all weights of neighbouring layers begin at the same value."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly, settled
from wellfit.rules.initial_weights import InitialWeight, initial_weights
from wellfit.source import init_call

_INITIALISERS = ("zeros_", "ones_", "constant_", "fill_", "zero_", "full_like", "zeros", "ones", "full", "zeros_like")


class ConstantInit(Rule):
    """Weights of neighbouring layers all have one value, so all units of a layer are and stay the same.

    What it checks
        Weights with two axes or more whose standard deviation is below `spread` of their rms when training begins, in
        two layers called one after the other (or in all layers). All-zero layers count only while their gradients
        stay exactly 0 for `zero_steps` sampled steps.

    Why it hurts
        Units with the same weights give the same output and get the same gradient: a layer of 100 is worth one unit.
        With zeros nothing reaches the layers below at all.

    Cure
        Draw weights at random: `nn.init.kaiming_normal_` (ReLU) or `nn.init.xavier_uniform_` (tanh, sigmoid). Biases
        may begin at 0.

    Fix safety
        Unsafe: the run begins elsewhere.

    When it is wrong
        A single constant or zero layer (a zero-initialised head, the last layer of a residual branch, LoRA's B) is
        meant and learns; it is not reported unless the loss does not fall.

    References
        Goodfellow et al., Deep Learning (2016), 8.4; NeuraLint (2021); TheDeepChecker (2022).
    """

    code = "INI201"
    name = "constant-init"
    family = "initialisation"
    summary = "all weights of a layer begin at one value, so its units stay alike"
    reads = ("parameter", "gradient", "loss")
    consequences = (
        "plateau",
        "vanishing",
        "output-collapse",
        "rank-collapse",
        "zero-grad-param",
        "lr-low",
        "dead-units",
        "init-gain",
        "initial-loss",
        "never-updated",
        "linear-stack",
    )
    fixes = (Fix("Draw the weights at random (Kaiming or Xavier)", override="init=he"),)

    spread: float = 1e-3  # std / rms of a weight; random weights have 0.8 to 1
    zero_steps: int = 5  # sampled steps with gradient exactly 0; a zero-initialised layer that learns has none
    unlearned: float = 0.7  # share of the first loss that is left when a lone constant layer is reported
    steps: int = 60  # steps before the fit of a growing run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 8)
        y = (x[:, 0] * x[:, 1] > 0).long()
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
        for parameter in model.parameters():
            nn.init.constant_(parameter, 0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
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
        y = (x[:, 0] * x[:, 1] > 0).long()
        head = nn.Linear(32, 2)
        nn.init.zeros_(head.weight)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), head)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        weights = initial_weights(record)
        if not weights or record.step_count < 2:
            return
        constant = [self._constant(record, weight) for weight in weights]
        runs = [i for i in range(len(weights) - 1) if constant[i] and constant[i + 1]]
        poor = fits_poorly(condition(record), self.unlearned)
        if runs:
            chosen = [weight for i, weight in enumerate(weights) if constant[i]]
            certain = poor or self._all_alike(record, [weights[i] for i in runs])
            yield self._found(record, chosen, certain, len(weights))
        elif any(constant) and poor:
            chosen = [weight for i, weight in enumerate(weights) if constant[i]]
            yield self._found(record, chosen, len(chosen) == len(weights), len(weights))

    def _constant(self, record: Record, weight: InitialWeight) -> bool:
        parameter = weight.parameter
        initial = parameter.initial
        if (parameter.shape[0] < 2 and parameter.size < 3) or not np.isfinite(initial.rms):
            return False
        if initial.rms > 0:
            return initial.std < self.spread * initial.rms
        gradient = record.series("gradient", parameter.name)
        early = gradient.amax[: self.zero_steps]
        return len(early) >= self.zero_steps and bool(np.all(early == 0))

    def _all_alike(self, record: Record, hidden: list[InitialWeight]) -> bool:
        """Whether the biases of constant hidden layers are constant as well: then nothing tells the units apart."""
        for weight in hidden:
            biases = [record.parameters.get(name) for name in weight.layer.parameters]
            for bias in biases:
                if (
                    bias is not None
                    and len(bias.shape) == 1
                    and bias.initial.std > self.spread * max(bias.initial.rms, 1e-12)
                ):
                    return False
        return True

    def _found(self, record: Record, chosen: list[InitialWeight], certain: bool, layers: int) -> Finding:
        first = chosen[0]
        initial = first.parameter.initial
        value = f"all {initial.rms:.3g}" if initial.rms > 0 else "all 0, and so are their gradients"
        return self.finding(
            f"the weights of `{first.layer.name}` begin {value} ({len(chosen)} of {layers} layers are so): the "
            f"{first.parameter.shape[0]} units are alike and stay alike; draw them at random (kaiming_normal_, "
            "xavier_uniform_)",
            severity="error" if certain else "note", step=0, layer=first.layer.name,
            location=init_call(record, _INITIALISERS, "weight") or first.layer.location,
            evidence={"std": initial.std, "rms": initial.rms, "layers": len(chosen), "spread": self.spread},
            sure=settled(record, self.steps),
        )  # fmt: skip
