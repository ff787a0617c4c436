"""DAT105: one class is so frequent that the model learns nothing but that."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Loss, Record, Series
from wellfit.rule import Rule
from wellfit.rules.labels import is_weighted, labelled, late_loss
from wellfit.source import source_of

_CLASSES = {
    "cross_entropy": "CrossEntropyLoss",
    "nll_loss": "NLLLoss",
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
}


class ClassImbalance(Rule):
    """Nearly all samples are of one class, and the model has learned only that.

    What it checks
        How often each class came in at least `labels` labels, one a sample, of which `others` are not of the most
        frequent class. That class has a share of `most` or more and is `ratio` times as frequent as the rarest, its
        samples weigh as much as the others, and the training loss ends between `known` and `near` of that of a model
        that knows the frequencies only, their entropy. Above `nothing` of it, it is an error.

    Why it hurts
        Most of each gradient comes from the frequent class. The model answers with it whatever the sample: accuracy
        looks high, and not one of the rare samples is found.

    Cure
        Weight the classes in the loss (`weight` or `pos_weight`), draw the rare ones more often
        (WeightedRandomSampler), train for longer; judge by recall or the area under the precision-recall curve.

    Fix safety
        Unsafe: weights change what the outputs mean; they are no probabilities of the classes as they come any more.

    When it is wrong
        Where the classes cannot be told apart any better (clicks on advertisements), a loss near the entropy is all
        there is to reach; silence the rule there. Texts and images with a label for each place are left out.

    References
        Buda, Maki, Mazurowski 2018, "A systematic study of the class imbalance problem"; He and Garcia 2009, "Learning
        from imbalanced data". SageMaker Debugger has a rule ClassImbalance.
    """

    code = "DAT105"
    name = "class-imbalance"
    family = "data"
    summary = "one class is far more frequent, and only that is learned"
    reads = ("labels", "loss")
    consequences = ("plateau", "output-collapse", "rank-collapse", "underfit")
    fixes = (Fix("Weight the classes in the loss"), Fix("Draw samples of the rare classes more often"))

    labels: int = 500  # labels seen
    others: int = 20  # of them not of the most frequent class, so that their share is known within a quarter
    ratio: float = 10.0  # most frequent class over the rarest
    most: float = 0.75  # share of the most frequent class
    known: float = 0.85  # training loss over the entropy of the classes; below it something is learned
    nothing: float = 0.97  # the same, for an error
    near: float = 1.3  # the same: above it not even the frequencies are known, and something else is ill
    steps: int = 50  # steps before that is judged
    text: int = 10  # classes; with more, and an embedding, they are words or letters

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        defect = torch.nonzero(y == 8).squeeze(1)[:60]
        kept = torch.cat([defect, torch.nonzero(y != 8).squeeze(1)])
        loader = DataLoader(TensorDataset(x[kept], (y[kept] == 8).long()), batch_size=64, shuffle=True)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        criterion = nn.CrossEntropyLoss()
        for _epoch in range(6):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
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
        defect = torch.nonzero(y == 8).squeeze(1)[:60]
        kept = torch.cat([defect, torch.nonzero(y != 8).squeeze(1)])
        loader = DataLoader(TensorDataset(x[kept], (y[kept] == 8).long()), batch_size=64, shuffle=True)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 20.0]))
        for _epoch in range(8):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.steps or condition(record).adversarial:
            return
        texts = any(layer.kind == "embedding" for layer in record.layers.values())
        for loss, labels in labelled(record):
            if is_weighted(loss) or (texts and labels["classes"][-1] > self.text):
                continue
            found = self._judged(record, loss, labels)
            if found is not None:
                yield found
                return

    def _judged(self, record: Record, loss: Loss, labels: Series) -> Finding | None:
        most, least, entropy = (float(labels[name][-1]) for name in ("most", "least", "pool_entropy"))
        seen = float((labels["count"] * (1 - labels["ignored"])).sum())
        if seen < self.labels or seen * (1 - most) < self.others or least <= 0:
            return None
        end = late_loss(record, loss)
        if most < self.most or most / least < self.ratio or not self.known * entropy < end < self.near * entropy:
            return None
        nothing = end > self.nothing * entropy
        what = "answers with the frequent class whatever the sample" if nothing else "tells the rare ones hardly apart"
        return self.finding(
            f"{100 * most:.3g} % of {seen:.0f} labels are of one class, {most / least:.3g} times as many as of the "
            f"rarest, and the loss ends at {end:.3g}, where knowing how frequent the classes are gives {entropy:.3g}: "
            f"the model {what}; weight the classes in the loss or draw the "
            "rare ones more often, and judge by recall",
            severity="error" if nothing else "note", step=int(labels.step[-1]),
            location=_made(loss) or loss.location,
            evidence={"most": most, "least": least, "classes": int(labels["classes"][-1]), "labels": int(seen),
                      "loss": end, "entropy": entropy, "ratio": self.ratio},
            sure=record.finished,
        )  # fmt: skip


def _made(loss: Loss) -> Location | None:
    """The one line that makes a loss of this kind, which is where weights are given."""
    source = source_of(loss.location.file) if loss.location is not None else None
    call = source.only_call([_CLASSES.get(loss.function, "")]) if source is not None else None
    return Location(source.file, call.lineno) if source is not None and call is not None else None
