"""DAT106: the samples come class by class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Loader, Loss, Record, Series
from wellfit.rule import Rule
from wellfit.rules.labels import batch_size, knows_little, labelled, least_entropy, worst_loss
from wellfit.source import target_origin


class LabelSorted(Rule):
    """The training data is sorted by label: a batch holds one or two classes, the next ones the same again.

    What it checks
        The entropy of the labels of a batch, on average over at least `batches` batches, beside the least that batches
        of this size have if they are drawn at random from all labels seen: -ln(1/n + (1 - 1/n) s) for n labels, where s
        is the largest sum of squared shares that a most frequent class of share m leaves room for. Below `mixed` of it
        the batches are not drawn at random. It is an error if the loss ends above `unlearned` of the loss of knowing
        the frequencies of the classes only, in training or in evaluation; below `pure` it is a note if not. Batches of
        fewer than `smallest` labels are told by the first labels: all of one class, though the odds of that are below
        `odds`.

    Why it hurts
        Each stretch of one class teaches the model to answer with that class and to forget the others. The training
        loss looks small in between, since the next batch has the same answer; on mixed data the model does badly.

    Cure
        Shuffle the training data in each epoch: `shuffle=True` of the DataLoader, or a new `torch.randperm` each epoch.

    Fix safety
        Safe: the same samples in another order.

    When it is wrong
        Tasks that are learned one after another on purpose (continual learning), and batches of one class by design.
        Loops whose DataLoader shuffles, or draws whole batches by a sampler of its own, are left alone; so are batches
        of one class that change class at once.

    References
        Bengio 2012, "Practical recommendations for gradient-based training of deep architectures", 3.1.1; Bottou 2012,
        "Stochastic gradient descent tricks", 4.1 (examples in random order).
    """

    code = "DAT106"
    name = "label-sorted"
    family = "data"
    summary = "training data sorted by label: shuffling is off"
    reads = ("labels", "loss")
    consequences = (
        "plateau",
        "diverged",
        "overfit",
        "exploding",
        "grad-spike",
        "spike",
        "oscillation",
        "lr-high",
        "val-too-good",
        "bn-gap",
        "forgets",
        "label-noise",
    )
    fixes = (Fix("Shuffle the training data in each epoch", override="shuffle=on", safe=True),)

    batches: int = 20  # sampled batches
    mixed: float = 0.5  # entropy of a batch over the least of one drawn at random; healthy runs: 1.03 to 1.2
    pure: float = 0.25  # the same, below which it is noted though the run learns; two classes of ten at a time: 0.34
    smallest: int = 8  # labels in a batch from which on its entropy is judged
    odds: float = 1e-6  # that all of the first labels are of one class, drawn at random
    unlearned: float = 0.25  # share of the loss of knowing the frequencies only that is left
    telling: float = 0.1  # nats: least entropy of random batches from which on there is anything to tell; 19 to 1: 0.1

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        by_class = [torch.nonzero(y == digit).squeeze(1)[:140] for digit in range(10)]  # as from one folder a class
        train = TensorDataset(x[torch.cat(by_class)], y[torch.cat(by_class)])
        loader = DataLoader(train, batch_size=32)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), targets)
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
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        by_class = [torch.nonzero(y == digit).squeeze(1)[:140] for digit in range(10)]  # as from one folder a class
        train = TensorDataset(x[torch.cat(by_class)], y[torch.cat(by_class)])
        loader = DataLoader(train, batch_size=32, shuffle=True)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        for loss, labels in labelled(record):
            if len(labels) < self.batches or condition(record).adversarial:
                continue
            sizes = labels["count"] * (1 - labels["ignored"])
            order = self._small_batches(labels, sizes) if np.median(sizes) < self.smallest else self._batches(labels)
            loader = _loader(record, float(np.median(labels["count"])))
            if order is None or (loader is not None and (loader.shuffle is not False or loader.batch_size is None)):
                continue
            entropy = float(labels["pool_entropy"][-1])
            poor = knows_little(record, loss, entropy, self.unlearned)
            if poor or order.share < self.pure:
                yield self._found(record, loss, labels, order, loader, poor)
                return

    def _batches(self, labels: Series) -> _Order | None:
        """Batches with fewer classes than drawing at random gives."""
        size, least = batch_size(labels), least_entropy(labels)
        mean = float(np.mean(labels["entropy"]))
        if not (least >= self.telling and mean < self.mixed * least):
            return None
        if _changes_at_once(labels):
            return None
        own = float(np.mean(labels["batch_most"]))
        said = (
            f"the batches of {size:.0f} labels hold {math.exp(mean):.2g} classes on average, {100 * own:.0f} % of a "
            f"batch are of one class, while all that were looked at have {labels['classes'][-1]:.0f}"
        )
        return _Order(said, mean / least, {"entropy": mean, "of_random_batches_at_least": least, "mixed": self.mixed})

    def _small_batches(self, labels: Series, sizes: np.ndarray) -> _Order | None:
        """The first labels, all of one class."""
        alone = int(np.argmax(labels["classes"] > 1))  # 0 also where there is but one class
        seen, most = float(np.sum(sizes[:alone])), float(labels["most"][-1])
        if alone < 2 or not 0 < most < 1 or (seen - 1) * -math.log(most) < -math.log(self.odds):
            return None
        said = (
            f"the first {seen:.0f} labels seen are all of one class, though it has a share of at most "
            f"{100 * most:.0f} % in all of them"
        )
        return _Order(said, 0.0, {"of_one_class": int(seen), "share": most, "odds": self.odds})

    def _found(
        self, record: Record, loss: Loss, labels: Series, order: _Order, loader: Loader | None, poor: bool
    ) -> Finding:
        worst, entropy = worst_loss(record, loss), float(labels["pool_entropy"][-1])
        ends = f", and it ends at a loss of {worst:.3g}, where guessing gives {entropy:.3g}" if worst == worst else ""
        cure = "give the DataLoader shuffle=True" if loader is not None else "draw a new random order in each epoch"
        return self.finding(
            f"the training data is sorted by label: {order.said}; so each stretch of one class makes the model forget "
            f"the others{ends}; {cure}",
            severity="error" if poor else "note", step=int(labels.step[min(self.batches, len(labels)) - 1]),
            location=(loader.location if loader is not None else None) or _where(record, loss),
            evidence={**order.evidence, "batches": len(labels), "classes": int(labels["classes"][-1])},
            sure=record.finished,
        )  # fmt: skip


@dataclass(frozen=True)
class _Order:
    """What shows that labels are in order; `share` of the entropy of random batches, and numbers for the evidence."""

    said: str
    share: float
    evidence: dict[str, float | int | str | list[str]]


def _changes_at_once(labels: Series) -> bool:
    """Whether the second of two pure batches has another class than the first: batches of one class by design."""
    if np.mean(labels["batch_most"]) < 0.9 or len(labels) < 2:
        return False
    return bool(labels["classes"][0] == 1 and labels["classes"][1] > 1 and labels.step[1] == labels.step[0] + 1)


def _loader(record: Record, size: float) -> Loader | None:
    """The loader that gives the training batches: one that shuffles, else one with batches of this size; or None."""
    used = {event["loader"] for event in record.events("epoch")}
    loaders = [loader for loader in record.loaders.values() if loader.id in used]
    loaders.sort(key=lambda loader: (not loader.shuffle, loader.batch_size != size))
    return loaders[0] if loaders else None


def _where(record: Record, loss: Loss) -> Location | None:
    """Where the labels are made, else where the loss is computed."""
    return target_origin(loss.location)[0] or loss.location
