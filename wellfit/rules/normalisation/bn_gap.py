"""NRM803: batch norm's running statistics are not those of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record, Series
from wellfit.rule import Rule
from wellfit.rules.batch_norms import batch_norms, evaluation_over_training


class BnGap(Rule):
    """Evaluation uses running statistics that have little to do with the data that batch norm sees.

    What it checks
        Mean and variance of the batches beside the running ones, the median over the channels and over the last
        `samples` sampled steps or more after `updates` steps, in layers with `elements` numbers a channel or more. A
        distance of the means above `gap` running standard deviations, or variances that differ by more than `spread`
        times, is an error if the evaluation loss is more than `apart` times that of training, and a note if no
        evaluation by the same loss was seen. A momentum of `high_momentum` or more, for layers with fewer than
        `many_elements` numbers a channel, is judged by the evaluation alike: its running statistics are those of the
        last batch. That is an error from `last_only` on with up to `few_elements` numbers, else a note.

    Why it hurts
        In training batch norm uses the statistics of the batch, in evaluation the running ones. If they differ, the
        evaluated model computes another function than the one that was trained.

    Cure
        momentum=0.1, torch's own: it is the weight of the new batch (in Keras of the old statistics: 0.99 there is 0.01
        here). Train for longer, or pass over the training data once more in train mode before evaluating.

    Fix safety
        Safe: running statistics take no part in training.

    When it is wrong
        Training batches that differ from one another on purpose (one domain a batch).

    References
        Ioffe and Szegedy 2015, "Batch normalization"; Wu and Johnson 2021, "Rethinking 'batch' in BatchNorm", 3
        (precise statistics).
    """

    code = "NRM803"
    name = "bn-gap"
    family = "normalisation"
    summary = "batch norm's running statistics are far from those of the data"
    reads = ("norm", "loss")
    consequences = ("overfit", "label-noise")
    fixes = (Fix("Set momentum to 0.1 or compute the running statistics anew", safe=True),)

    gap: float = 1.0  # |batch mean - running mean| / running standard deviation; healthy runs: to 0.2
    spread: float = 4.0  # batch variance over running variance, or the other way round; healthy runs: 0.7 to 1.2
    updates: int = 100  # steps before which running statistics of momentum 0.1 may lag behind
    samples: int = 3  # sampled steps after these
    elements: int = 16  # of each channel: with fewer the batch's own statistics scatter as far
    high_momentum: float = 0.5  # share of the last batch in the running statistics
    last_only: float = 0.9  # the same, from which on it is an error
    few_elements: int = 64  # of each channel, for that: the mean of one batch is off by an eighth of the deviation
    many_elements: int = 256  # of each channel, from which on one batch is enough for its statistics
    apart: float = 2.0  # evaluation loss over training loss

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        layers = []
        for _ in range(2):
            layers += [nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=0.001), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _epoch in range(6):
            model.train()
            for batch in torch.randperm(1400).split(32):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x[1400:]), y[1400:]).item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        layers = []
        for _ in range(2):
            layers += [nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=0.1), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _epoch in range(6):
            model.train()
            for batch in torch.randperm(1400).split(32):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x[1400:]), y[1400:]).item())

    def check(self, record: Record) -> Iterator[Finding]:
        norms = batch_norms(record)
        if not norms or record.step_count <= self.updates or condition(record).adversarial:
            return
        ratio = evaluation_over_training(record)
        if ratio <= self.apart:
            return
        off = [(layer, *away) for layer, series in norms if (away := self._away(series)) is not None]
        if off:
            layer, gap, spread = max(off, key=lambda one: max(one[1] / self.gap, abs(math.log(one[2]))))
            yield self._found_off(record, layer, gap, spread, len(off), len(norms), ratio)
            return
        last = [
            (layer, float(np.median(series["elements"]))) for layer, series in norms if self._forgets(layer, series)
        ]
        if last and ratio > self.apart:
            yield self._found_momentum(record, *last[0], len(last), ratio)

    def _away(self, series: Series) -> tuple[float, float] | None:
        """Gap and spread of a layer where they are too large, late in training."""
        late = (series.step >= self.updates) & (series["elements"] >= self.elements)
        places = np.flatnonzero(late)
        if len(places) < self.samples:
            return None
        places = places[-max(self.samples, len(places) // 2) :]
        gap, spread = float(np.median(series["gap"][places])), float(np.median(series["spread"][places]))
        known = math.isfinite(gap) and math.isfinite(spread) and spread > 0
        return (gap, spread) if known and (gap > self.gap or not 1 / self.spread < spread < self.spread) else None

    def _forgets(self, layer: Layer, series: Series) -> bool:
        """Whether the running statistics of a layer are little more than those of its last batch."""
        momentum = layer.attributes.get("momentum")
        high = isinstance(momentum, (int, float)) and momentum >= self.high_momentum
        return high and float(np.median(series["elements"])) < self.many_elements

    def _found_off(
        self, record: Record, layer: Layer, gap: float, spread: float, count: int, total: int, ratio: float
    ) -> Finding:
        momentum = layer.attributes.get("momentum")
        low = isinstance(momentum, (int, float)) and momentum < 0.05
        why = f" (momentum {momentum:g}: the weight of a new batch)" if low else ""
        scored = ratio == ratio
        said = f", and the evaluation loss is {ratio:.3g} times that of training" if scored else ""
        return self.finding(
            f"the running statistics of batch norm `{layer.name}`{f' ({count} of {total})' if total > 1 else ''} are "
            f"not those of its batches: the means are {gap:.2g} standard deviations apart, and the variance of a batch "
            f"is {spread:.2g} times the running one{why}{said}; evaluation thus computes another function than was "
            "trained; set momentum to 0.1, or pass over the training data in train mode before evaluating",
            severity="error" if scored else "note", step=self.updates, layer=layer.name, location=layer.location,
            evidence={"gap": gap, "spread": spread, "layers": count,
                      **({"evaluation_over_training": ratio} if scored else {})},
            sure=record.finished,
        )  # fmt: skip

    def _found_momentum(self, record: Record, layer: Layer, elements: float, count: int, ratio: float) -> Finding:
        momentum = float(layer.attributes["momentum"])
        grave = momentum >= self.last_only and elements <= self.few_elements
        return self.finding(
            f"batch norm `{layer.name}`{f' and {count - 1} more' if count > 1 else ''} has a momentum of {momentum:g}: "
            f"in torch it is the weight of the new batch, so running statistics are those of the last batch alone, and "
            f"the evaluation loss is {ratio:.3g} times that of training; set it to 0.1",
            severity="error" if grave else "note", step=self.updates, layer=layer.name,
            location=layer.location,
            evidence={"momentum": momentum, "layers": count, "evaluation_over_training": ratio}, sure=record.finished,
        )  # fmt: skip
