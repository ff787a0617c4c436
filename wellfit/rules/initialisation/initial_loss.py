"""INI203: the first loss is far from that of a model that knows nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from wellfit.condition import chance_level, condition, training_loss
from wellfit.finding import Finding, Fix
from wellfit.record import Loss, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import first_loss, fits_poorly, settled


class InitialLoss(Rule):
    """The loss of the very first step is far above (or below) the level of chance.

    What it checks
        The first value of a cross-entropy or binary cross-entropy against ln C or ln 2: above `times_chance` times
        that, or below `share_of_chance` of it. Weighted and smoothed losses are not judged.

    Why it hurts
        Above: the model begins sure of wrong answers, and its first steps are spent on unlearning them, which may kill
        units. Below: an untrained model cannot know the answers, so the loss or the labels are not what they seem.

    Cure
        Scale the inputs, use the default initialisation, and make the last layer small (or set its bias to the log of
        the class frequencies).

    Fix safety
        Unsafe: the run begins elsewhere.

    When it is wrong
        Pretrained models rightly begin below chance. A high first loss is an error only if it exceeds `extreme` times
        chance and the run fits poorly.

    References
        Karpathy, A Recipe for Training Neural Networks (2019), "verify loss at init".
    """

    code = "INI203"
    name = "initial-loss"
    family = "initialisation"
    summary = "the first loss is far from the level of chance"
    reads = ("loss",)
    consequences = ("dead-units", "plateau", "lr-high")
    fixes = (Fix("Make the last layer's weights small"),)

    times_chance: float = 2.0  # first loss / level of chance; healthy runs 0.97 to 1.2
    extreme: float = 5.0  # first loss / level of chance; faulty runs 6.9 to 3.5e4
    share_of_chance: float = 0.2  # first loss / level of chance
    unlearned: float = 0.5  # share of the first loss (or chance) that is left
    smallest_batch: int = 8  # samples of the first batch; the loss of fewer scatters too much
    steps: int = 100  # steps before the fit of a growing run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 16)
        y = torch.randint(0, 4, (256,))
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
        for _ in range(60):
            optimizer.zero_grad()
            scores = model(x) * 200
            loss = nn.functional.cross_entropy(scores, y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(256, 16)
        y = (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        loss = training_loss(record)
        if loss is None or not self._judged(loss):
            return
        chance, first = chance_level(record), first_loss(record, loss.id)
        if not (math.isfinite(chance) and math.isfinite(first)) or chance <= 0:
            return
        ratio = first / chance
        evidence = {"first": first, "chance": chance, "ratio": ratio}
        if ratio > self.times_chance:
            bad = ratio > self.extreme and fits_poorly(condition(record), self.unlearned)
            yield self.finding(
                f"the first loss is {first:.3g}, {ratio:.3g} times the {chance:.3g} of pure chance: the model begins "
                "sure "
                "of wrong answers and must unlearn them first; scale the inputs, or make the last layer small",
                severity="error" if bad else "note", step=0, location=loss.location,
                evidence=evidence | {"times_chance": self.times_chance}, sure=settled(record, self.steps),
            )  # fmt: skip
        elif 0 <= ratio < self.share_of_chance:
            yield self.finding(
                f"the first loss is {first:.3g}, below {self.share_of_chance:g} of the {chance:.3g} of pure chance: a "
                "model "
                "that was not trained before cannot know the answers; look at the labels and at what the loss is given",
                severity="note", step=0, location=loss.location,
                evidence=evidence | {"share_of_chance": self.share_of_chance}, sure=settled(record, self.steps),
            )  # fmt: skip

    def _judged(self, loss: Loss) -> bool:
        attributes, shape = loss.attributes, loss.prediction_shape
        if not shape or math.prod(shape[:1] + shape[2:]) < self.smallest_batch:
            return False
        smoothing = attributes.get("label_smoothing", 0.0)
        if attributes.get("weight") or attributes.get("pos_weight"):
            return False
        if isinstance(smoothing, (int, float)) and smoothing > 0.2:
            return False
        return loss.function in (
            "cross_entropy",
            "nll_loss",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
        )
