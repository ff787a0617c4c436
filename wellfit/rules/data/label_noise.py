"""DAT113: the labels do not belong to the inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wellfit.condition import condition
from wellfit.finding import Finding
from wellfit.record import Curve, Loss, Record
from wellfit.rule import Family, Rule
from wellfit.rules.labels import evaluated_alike, is_weighted, least_entropy, training_scale
from wellfit.rules.passes import passes
from wellfit.rules.roles import named_target
from wellfit.source import target_origin


class LabelNoise(Rule):
    """The labels have nothing to do with the inputs: what the model learns, it learns by heart.

    What it checks
    Losses of a classifier, in shares of the entropy of its labels, which is the loss of one that knows only how
    frequent the classes are. Two signs, of which one is enough, in a run whose training loss ends below `learned`:

    - No evaluation of `evaluations` or more came below `chance`, none was more than `better` below the first, and the
      last ones lie above it.
    - The first pass over the data ended above `chance`, and in the `passes` or more passes of the run the loss fell by
      `known` standard errors from the end of one pass to the begin of the next, but not within a pass. What is learned
      of one sample then never helps with the next.

    Batches whose labels have less than `mixed` of the entropy of batches drawn at random, as `label-sorted` counts it,
    are those of sorted data, and left alone.

    Why it hurts
    There is nothing to learn. Loss and accuracy of the training look as if the model got better, on anything new it
    guesses.

    Cure
    Look at twenty samples with their labels. Inputs and labels shuffled or filtered apart from each other, files listed
    in another order than their labels, a `view` that mixes samples, and labels of another column do this.

    Fix safety
    Nothing is changed by looking.

    When it is wrong
    Labels drawn at random on purpose, to see what a model can learn by heart. Right labels of too few samples may show
    the first sign, which says so. A model that forgets in evaluation what
    it knows in training may look like the first sign; the rules that know why (`bn-gap`, `eval-input-shift`) name this
    one as their consequence. A few wrong labels among many right ones do not show.

    References
    Zhang et al. 2017, "Understanding deep learning requires rethinking generalization", section 2; Arpit et al. 2017,
    "A Closer Look at Memorization in Deep Networks".
    """

    code = "DAT113"
    name = "label-noise"
    family: ClassVar[Family] = "data"
    summary = "the labels do not belong to the inputs: only learned by heart"
    reads = ("labels", "loss")
    consequences = ("overfit", "plateau", "lr-high", "layer-imbalance", "val-too-good")

    chance: float = 0.98  # loss over the entropy of the labels; healthy runs have an evaluation below 0.82
    learned: float = 0.97  # training loss at the end over that entropy
    better: float = 0.02  # share of the first evaluation by which another may be better
    mixed: float = 0.5  # mean entropy of batches over the least of batches drawn at random, as in label-sorted
    evaluations: int = 4  # evaluation passes
    passes: int = 4  # passes over the training data
    known: float = 4.0  # standard errors of the mean fall between passes
    within: float = 0.1  # fall within the passes over that between them; healthy runs that begin so: 1.7 and more

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        images = torch.tensor(x / 16.0).float()[torch.randperm(len(x))]  # shuffled, but not the labels
        labels = torch.tensor(y)
        loader = DataLoader(TensorDataset(images, labels), batch_size=50, shuffle=True)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(20):
            for image, label in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(image), label)
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        order = torch.randperm(len(x))
        images = torch.tensor(x / 16.0).float()[order]
        labels = torch.tensor(y)[order]
        labels = torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, (len(y),)), labels)  # three of ten are wrong
        loader = DataLoader(TensorDataset(images, labels), batch_size=50, shuffle=True)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(20):
            for image, label in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(image), label)
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state, scale = condition(record), training_scale(record)
        if state.adversarial or not math.isfinite(scale):
            return
        for loss in record.losses.values():
            labels = record.series("labels", str(loss.id))
            if not (loss.training and len(labels) and loss.reduction == "mean") or is_weighted(loss):
                continue
            entropy = float(labels["pool_entropy"][-1])
            mixed = float(np.mean(labels["entropy"])) > self.mixed * least_entropy(labels)
            if not entropy > 0 or not mixed or not state.end < self.learned * entropy * scale:
                continue
            for other in evaluated_alike(record, loss):
                found = self._never_better(record, loss, record.evaluations(other.id), entropy)
                if found is not None:
                    yield found
                    return
            for rows in passes(record):
                found = self._by_heart(record, loss, rows / scale, entropy)
                if found is not None:
                    yield found
                    return

    def _never_better(self, record: Record, loss: Loss, curve: Curve, entropy: float) -> Finding | None:
        """Evaluations that never beat guessing."""
        value = curve.value[np.isfinite(curve.value) & (curve.step > 0)]
        if len(value) < self.evaluations:
            return None
        best, first, last = float(value.min()), float(value[0]), float(np.median(value[-2:]))
        if best < self.chance * entropy or best < (1 - self.better) * first or last <= first:
            return None
        return self._told(
            record, loss,
            f"in {len(value)} evaluations the loss never came below {best:.3g}, where knowing only how frequent the "
            f"classes are gives {entropy:.3g}, while the training loss fell",
            {"evaluation": best, "guessing": entropy, "chance": self.chance},
            ", or the samples are too few to tell what they have",
        )  # fmt: skip

    def _by_heart(self, record: Record, loss: Loss, rows: NDArray[np.float64], entropy: float) -> Finding | None:
        """Passes between which alone the loss falls."""
        count, length = rows.shape
        if count < self.passes:
            return None
        quarter = length // 4
        begin, end = rows[:, :quarter].mean(1), rows[:, -quarter:].mean(1)
        if end[0] < self.chance * entropy or end[-1] >= self.learned * entropy:
            return None
        between, inside = end[:-1] - begin[1:], begin - end
        error = float(between.std(ddof=1)) / math.sqrt(len(between))
        if not between.mean() > self.known * error or inside.mean() > self.within * between.mean():
            return None
        return self._told(
            record, loss,
            f"in {count} passes over the data the loss fell by {between.mean():.2g} each time the same samples came "
            f"again, and by nothing within a pass; after the first pass it was {end[0]:.3g}, where knowing only how "
            f"frequent the classes are gives {entropy:.3g}",
            {"between_passes": float(between.mean()), "within_passes": float(inside.mean()), "guessing": entropy,
             "within": self.within},
        )  # fmt: skip

    def _told(self, record: Record, loss: Loss, what: str, evidence: dict[str, float], or_else: str = "") -> Finding:
        return self.finding(
            f"{what}: what is learned is learned by heart, so the labels have nothing to do with the inputs{or_else}; "
            "look at samples with their labels (shuffled apart, another order of files, another column)",
            severity="error", step=0,
            location=named_target(loss.location) or target_origin(loss.location)[0] or loss.location,
            evidence=evidence, sure=record.finished, from_start=True,
        )  # fmt: skip
