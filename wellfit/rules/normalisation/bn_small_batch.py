"""NRM801: batch norm takes its statistics from a handful of numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix, Severity
from wellfit.record import Layer, Record
from wellfit.rule import Rule
from wellfit.rules.batch_norms import batch_norms, evaluation_over_training
from wellfit.rules.fitness import fits_poorly


class BnSmallBatch(Rule):
    """Batch norm with too few numbers for each channel.

    What it checks
        The numbers that each channel of a batch norm in train mode has in a batch (samples times places), the median
        over at least `batches` sampled steps. With `pair` of them the outputs are -1 and 1 whatever the inputs are:
        an error if more than `unlearned` of the loss is left. With fewer than `few`, or from no more samples
        than `pair` with whatever places they have, it is an error if moreover the loss of the evaluation is less than
        1/`apart` or more than `apart` times that of training. With up to `rare` it is a note where the model learns.

    Why it hurts
        Mean and variance of so few samples are mostly noise, and each sample's output depends on which others are in
        its batch. With two samples all that is left of each channel is which of them is larger. In evaluation the layer
        uses running statistics, which such batches seldom resemble: it computes another function than in training.

    Cure
        Larger batches; or GroupNorm or LayerNorm, which look at one sample only; with several processes SyncBatchNorm.
        Gradient accumulation does not help: each micro-batch is normalised by itself.

    Fix safety
        Unsafe: another norm or batch size is another model or course of training.

    When it is wrong
        Layers that are meant to compare two samples.

    References
        Wu and He 2018, "Group Normalization", figure 1 (error against batch size); Ioffe 2017, "Batch Renormalization".
    """

    code = "NRM801"
    name = "bn-small-batch"
    family = "normalisation"
    summary = "batch norm with too few samples in a batch"
    reads = ("norm.elements", "loss")
    consequences = (
        "plateau",
        "bn-gap",
        "oscillation",
        "overfit",
        "diverged",
        "output-collapse",
        "rank-collapse",
        "val-too-good",
        "exploding",
        "vanishing",
        "lr-high",
        "eval-mode",
    )
    fixes = (
        Fix("Make the batches larger", override="batch-size=32"),
        Fix("Take GroupNorm or LayerNorm", override="norm=group"),
    )

    pair: int = 2  # numbers of a channel: what is normalised is then always -1 and 1
    rare: int = 4  # numbers of a channel, for a note
    few: int = 8  # numbers of a channel; healthy runs train with 8
    batches: int = 10  # sampled steps in train mode
    unlearned: float = 0.4  # share of the lower one of first loss and loss of guessing that is left
    apart: float = 2.0  # loss of the evaluation over that of training, or the other way round

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        layers = []
        for _ in range(3):
            layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        for batch in torch.randperm(1400)[:800].split(2):
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
        layers = []
        for _ in range(3):
            layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(32):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        norms = [
            (float(np.median(series["elements"])), layer)
            for layer, series in batch_norms(record)
            if len(series) >= self.batches and "Sync" not in layer.class_name
        ]
        small = [(size, layer) for size, layer in norms if 0 < size < self.few or self._few_samples(layer)]
        if not small:
            return
        size, layer = min(small, key=lambda pair: (pair[0], pair[1].order))
        state = condition(record)
        poor = fits_poorly(state, self.unlearned)
        ratio = evaluation_over_training(record)
        apart = ratio > self.apart or ratio < 1 / self.apart
        if poor and (size <= self.pair or apart):
            yield self._found(record, layer, size, len(small), len(norms), state, ratio, "error")
        elif not poor and size <= self.rare:
            yield self._found(record, layer, size, len(small), len(norms), state, ratio, "note")

    def _few_samples(self, layer: Layer) -> bool:
        """Whether the numbers of a channel are many places of few samples, which are much alike."""
        shape = layer.input_shape or ()
        return len(shape) > 2 and 1 < shape[0] <= self.pair

    def _found(
        self,
        record: Record,
        layer: Layer,
        size: float,
        count: int,
        total: int,
        state: Condition,
        ratio: float,
        severity: Severity,
    ) -> Finding:
        pair = size <= self.pair
        what = "of each channel only which one is larger is left" if pair else "its mean and variance are mostly noise"
        ill = severity == "error"
        evidence: dict[str, float | int | str | list[str]] = {
            "elements": size, "layers": count, "few": self.few, "verdict": state.verdict,
        }  # fmt: skip
        if ratio == ratio:
            evidence["evaluation_over_training"] = ratio
        others = f" ({count} of {total} such layers)" if total > 1 else ""
        samples = f" of {(layer.input_shape or (0,))[0]} samples" if self._few_samples(layer) else ""
        return self.finding(
            f"batch norm `{layer.name}`{others} takes its statistics from {size:.0f} numbers a channel{samples}: "
            f"{what}, and evaluation computes another function than training"
            + (", so little is learned" if ill else ", though the loss falls")
            + "; make the batches larger, or take GroupNorm or LayerNorm",
            severity=severity, layer=layer.name, location=layer.location, step=0,
            evidence=evidence, sure=record.finished,
        )  # fmt: skip
