"""A model that gives the same answer for every input."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Loss, Record
from wellfit.rule import Rule


class OutputCollapse(Rule):
    """The prediction does not depend on the sample, though the target does.

    What it checks
        Batch variation of the prediction given to the loss: sqrt(mean over outputs of the variance over the batch) /
        rms. Below `same_answer` (and `of_target` of the target's own variation for regression) in the last `sustained`
        sampled steps, after `warm_up` steps, in batches of at least `smallest_batch`. It is told only when the run is
        not doing its job. The layer named is the first from which on nothing varies.

    Why it hurts
        The model has learned one answer, the mean of the targets, and ignores its input.

    Cure
        Look at the layer that is named: dead or saturated units, an initialisation that is too small for the depth, a
        mean or a last element taken over the wrong axis. Normalise, initialise by the activation, or lower the
        learning rate or the weight decay.

    Fix safety
        These change the model; judge them by a run from the start.

    When it is wrong
        Targets that do not vary, policies that have converged, and small batches: targets without variation and batches
        below `smallest_batch` are left out.

    References
        TheDeepChecker, check of constant outputs: Ben Braiek, Khomh (2023).
    """

    code = "FWD305"
    name = "output-collapse"
    family = "forward"
    summary = "the prediction is the same for every input"
    reads = ("output.variation", "target", "activation.variation", "loss")
    consequences = ("plateau",)
    fixes = (Fix("Put a normalisation before the layer that is named", override="norm=batch"),)

    same_answer: float = 0.02  # batch variation; healthy runs end at >= 0.097, faulty ones at 0 .. 0.011
    of_target: float = 0.1  # share of the target's own std / rms, for regression
    smallest_batch: int = 8  # samples
    warm_up: int = 20  # steps
    sustained: int = 10  # sampled steps

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(64, 10, 16)
        y = (x[:, :, 0].mean(1) > 0).long()
        encoder = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        head = nn.Linear(16, 2)
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=1.0)
        for _ in range(60):
            pooled = encoder(x).mean(dim=(0, 1)).expand(64, 16)
            loss = nn.functional.cross_entropy(head(pooled), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(64, 10, 16)
        y = (x[:, :, 0].mean(1) > 0).long()
        encoder = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        head = nn.Linear(16, 2)
        optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=1.0)
        for _ in range(60):
            pooled = encoder(x).mean(dim=1)
            loss = nn.functional.cross_entropy(head(pooled), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        how = condition(record)
        if not how.ill or record.step_count < self.warm_up:
            return
        for loss in record.losses.values():
            series = record.series("output", str(loss.id))
            last = series.a[-self.sustained :]
            limit = self._limit(record, loss)
            if len(last) < self.sustained or not bool(np.all(last < limit)):
                continue
            layer = self._first_constant(record)
            named = f"from `{layer.name}` on nothing varies any more" if layer else "no single layer does it"
            yield self.finding(
                "the model gives the same answer for every input: its output varies by only "
                f"{float(np.median(last)):.1e} of its size over the batch, so it learned the mean target at best; "
                f"{named}: normalise there, initialise by the activation, and check axes and learning rate",
                severity="error",
                step=int(series.step[-self.sustained]),
                layer=layer.name if layer else None,
                location=layer.location if layer else loss.location,
                evidence={
                    "batch_variation": float(np.median(last)),
                    "threshold": limit,
                    "loss": how.verdict,
                    "loss_end": how.end,
                    "chance": how.chance,
                },
                sure=record.finished or (record.step_count > 5 * self.warm_up and self._within(record, layer)),
            )
            return

    def _within(self, record: Record, layer: Layer | None) -> bool:
        """Whether a layer before the last is constant too. Where only the head's answer is, the features still differ
        from sample to sample, and a run on its first plateau (long sequences) may well find out what they mean."""
        last = max((other.order for other in record.layers.values() if other.parameters), default=-1)
        return layer is not None and layer.order < last

    def _limit(self, record: Record, loss: Loss) -> float:
        """Variation below which the output counts as constant; 0 where it may well be."""
        shape = loss.prediction_shape
        target = record.series("target", str(loss.id))
        if not loss.training or not shape or shape[0] < self.smallest_batch or not len(target):
            return 0.0
        with np.errstate(all="ignore"):
            spreads = target.std / target.rms
        spreads = spreads[np.isfinite(spreads)]
        spread = float(np.median(spreads)) if len(spreads) else 0.0
        if not spread > 0.01 and not float(np.nanmax(np.nan_to_num(target.a))) > 1:
            return 0.0
        whole = bool(np.nan_to_num(target.b).max() >= 1)
        return self.same_answer if whole else min(self.same_answer, self.of_target * spread)

    def _first_constant(self, record: Record) -> Layer | None:
        """The first weighted layer in call order from which on no layer's output varies over the batch."""
        found: Layer | None = None
        for layer in record.layers.values():
            if layer.kind not in ("linear", "norm", "recurrent", "attention") or layer.order < 0:
                continue
            variation = record.series("activation", layer.name).b[-self.sustained :]
            variation = variation[np.isfinite(variation)]
            if len(variation) == 0:
                continue
            if float(np.median(variation)) >= self.same_answer:
                found = None
            elif found is None:
                found = layer
        return found
