"""Gradients that shrink on their way back, so that the early layers starve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Rule
from wellfit.rules.layering import activation_place, answers_alike, chains


class Vanishing(Rule):
    """The gradient shrinks from layer to layer on its way back.

    What it checks
        For the linear and convolution layers of one optimizer, in call order: the median over samples of
        rms(dL/d output) of the first over the last below `first_to_last`, and rms(gradient)/rms(weight) of a weight in
        the first half below `of_median` times the median of all. At least `samples` sampled steps. It is an error when
        the run is not doing its job, or all inputs get the same answer (`same_answer`), else a note.

    Why it hurts
        The early layers get a gradient that is thousands of times smaller than the late ones: they keep their random
        start while the late layers learn from noise.

    Cure
        Use ReLU or GELU in place of sigmoid or tanh, He's initialisation, a normalisation between the layers, residual
        connections, or fewer layers.

    Fix safety
        All of these make another model: judge it by a run from the start.

    When it is wrong
        Layers that are frozen or have converged. Healthy networks show a ratio of 0.003 to 0.6, convolutions on large
        images less: therefore both conditions are needed. Biases, norm scales, embeddings and weights that start at 0
        are left out.

    References
        Hochreiter (1991); Glorot, Bengio (2010). AutoTrainer, SageMaker Debugger, DeepDiagnosis: VanishingGradient.
    """

    code = "GRD401"
    name = "vanishing"
    family = "backward"
    summary = "the gradient of early layers is thousands of times smaller"
    reads = ("activation_gradient.rms", "gradient.rms", "parameter.rms", "loss")
    consequences = (
        "output-collapse",
        "rank-collapse",
        "plateau",
        "lr-low",
        "zero-grad-param",
        "never-updated",
        "dead-units",
    )
    fixes = (
        Fix("Use ReLU in place of sigmoid or tanh", override="activation=relu"),
        Fix("Begin with He's initial weights", override="init=he"),
        Fix("Put a normalisation between the layers", override="norm=batch"),
    )

    first_to_last: float = 1e-4  # ratio; healthy networks >= 3.4e-3, faulty ones <= 6e-8
    of_median: float = 0.02  # share of the median rms(gradient)/rms(weight); healthy >= 0.14, faulty <= 0.0066
    samples: int = 5  # sampled steps
    same_answer: float = 0.02  # batch variation of the output below which all inputs get one answer; healthy: >= 0.097

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > x[:, 0].median()).long()
        layers = []
        for width in [8] + [32] * 11:
            layers += [nn.Linear(width, 32), nn.Sigmoid()]
        model = nn.Sequential(*layers, nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > x[:, 0].median()).long()
        layers = []
        for width in [8] + [32] * 11:
            layers += [nn.Linear(width, 32), nn.LayerNorm(32), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        for chain in chains(record):
            ratio = self._ratio(record, chain)
            if not ratio < self.first_to_last:
                continue
            starved = self._starved(record, chain)
            if starved is None:
                continue
            low, share = starved
            layer, count = low[0], len(low)
            flat = [each for each in low if each.activation in ("sigmoid", "tanh")]
            how = condition(record)
            yield self.finding(
                f"the gradient vanishes on its way back: at `{layer.name}` it has {ratio:.1e} of the size it has at "
                f"`{chain[-1].name}`, so {count} of {len(chain)} layers keep their random start; {self._cure(flat)}",
                severity="error"
                if how.ill or (not how.adversarial and answers_alike(record, self.same_answer))
                else "note",
                step=int(record.series("activation_gradient", layer.name).step[self.samples - 1]),
                layer=layer.name,
                location=activation_place(record, flat[0]) if flat else layer.location,
                evidence={
                    "first_to_last": ratio,
                    "threshold": self.first_to_last,
                    "gradient_of_median": share,
                    "layers": count,
                    "loss": how.verdict,
                },
                fixes=[fix for fix in self.fixes if fix.override != ("init=he" if flat else "activation=relu")],
                sure=record.finished or record.step_count > 100,
            )
            return

    def _ratio(self, record: Record, chain: Sequence[Layer]) -> float:
        """rms(dL/d output) of the first layer over the last, median over the samples both have; NaN if too few."""
        first, last = (record.series("activation_gradient", layer.name) for layer in (chain[0], chain[-1]))
        _, here, there = np.intersect1d(first.step, last.step, return_indices=True)
        with np.errstate(all="ignore"):
            ratio = first.rms[here] / last.rms[there]
        ratio = ratio[np.isfinite(ratio)]
        return float(np.median(ratio)) if len(ratio) >= self.samples else math.nan

    def _starved(self, record: Record, chain: Sequence[Layer]) -> tuple[list[Layer], float] | None:
        """The starved layers and the least share of the usual gradient; None if none is in the first half."""
        sizes = [(layer, size) for layer in chain if (size := _relative_gradient(record, layer)) is not None]
        if len(sizes) < 3:
            return None
        middle = float(np.median([size for _, size in sizes]))
        # In a deep chain the median itself is tiny: the last layers are what a gradient should be.
        usual = max(middle, float(np.median([size for _, size in sizes[-3:]])))
        low = [(layer, size / usual) for layer, size in sizes if usual > 0 and size < self.of_median * usual]
        early = [pair for pair in low if pair[0].order <= sizes[(len(sizes) - 1) // 2][0].order]
        return ([layer for layer, _ in low], min(share for _, share in early)) if early else None

    def _cure(self, flat: Sequence[Layer]) -> str:
        if flat:
            return f"use ReLU in place of {flat[0].activation}, or normalise between the layers"
        return "use He's initialisation, a normalisation or residual connections between the layers, or fewer layers"


def _relative_gradient(record: Record, layer: Layer) -> float | None:
    """rms(gradient) / rms(weight) of a layer's weight, median over samples; None where it says nothing."""
    for name in layer.parameters:
        parameter = record.parameters.get(name)
        if parameter is None or len(parameter.shape) < 2 or parameter.size <= 1 or not parameter.initial.rms > 0:
            continue
        gradient, weight = record.series("gradient", name), record.series("parameter", name)
        _, here, there = np.intersect1d(gradient.step, weight.step, return_indices=True)
        with np.errstate(all="ignore"):
            ratio = gradient.rms[here] / weight.rms[there]
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            return float(np.median(ratio))
    return None
