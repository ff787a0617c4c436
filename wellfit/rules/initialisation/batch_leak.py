"""INI211: the answer for one sample depends on the others of its batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record
from wellfit.rule import Family, Rule


class BatchLeak(Rule):
    """What the model gives for a sample changes when another sample of the batch is exchanged.

    What it checks
    `wellfit check` only: a run under `leak-test`, which calls the model in eval mode with one sample of the batch
    replaced by another, and compares what it gives for all others. A change by more than `share` of the size of the
    outputs is an error; it is a note where the layer that mixes them is an attention layer, where the model is given
    the same numbers at each step (the batch is all there is), and in programs of several players (a discriminator that
    looks at the spread of a batch).

    Why it hurts
    Samples have nothing to do with one another. A model that mixes them answers by chance of what else is in the batch,
    may read the answer for one sample off another, and gives something else at evaluation, where batches differ.

    Cure
    Look at the layer that is named, for an axis that is counted from the wrong side: a mean, a softmax or a norm over
    axis 0, a view that exchanges axes (use transpose), a recurrent or attention layer without batch_first=True.

    Fix safety
    The program means something else afterwards: what it was meant to.

    When it is wrong
    Layers that compare the samples of a batch on purpose: attention between rows, the spread of a batch as a feature,
    routing with a limited capacity. Silence it there.

    References
    Karpathy 2019, "A Recipe for Training Neural Networks", "use backprop to chart dependencies".
    """

    code = "INI211"
    name = "batch-leak"
    family: ClassVar[Family] = "initialisation"
    summary = "the answer for a sample depends on the others of its batch"
    reads = ("leak",)
    consequences = (
        "input-ignored",
        "cannot-overfit",
        "plateau",
        "output-collapse",
        "rank-collapse",
        "overfit",
        "val-too-good",
    )
    fixes = (Fix("Let each sample go its own way: mend the axis"),)
    trials = ("leak-test",)

    share: float = 1e-3  # of the mean size of the outputs; rounding alone reaches 1e-5 in float32

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(64, 64)
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                x = x - x.mean(dim=0)  # each image's own mean was meant: dim=1
                return self.head(torch.relu(self.hidden(x)))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(64, 64)
                self.norm = nn.BatchNorm1d(64)
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                x = x - x.mean(dim=1, keepdim=True)
                return self.head(torch.relu(self.norm(self.hidden(x))))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check_trial(self, record: Record, companions: Mapping[str, Record]) -> Iterator[Finding]:
        trial = companions.get("leak-test")
        if trial is None:
            return
        leaks: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for event in trial.events("leak"):
            if event["share"] > self.share:
                leaks.setdefault((event["root"], event["layer"]), []).append(event)
        for (_, name), events in leaks.items():
            layer = trial.layers.get(name)
            # The first batch is the first of its kind in any program: later ones tell.
            alone = len(events) > 1 and all(event["same_batch"] for event in events[1:])
            meant = layer is not None and layer.kind == "attention"
            event = max(events, key=lambda one: float(one["share"]))
            what = f"`{name}` mixes the samples of a batch" if name else "the samples of a batch are mixed"
            yield self.finding(
                f"{what}: with sample {event['sample']} exchanged for another, what it gives for the others changes by "
                f"up to {100 * event['share']:.2g} % of the outputs' size (in eval mode); look for an axis counted "
                "from the wrong side: a mean, softmax or norm over the batch, a view in place of a transposition",
                severity="note" if alone or meant or condition(record).adversarial else "error",
                layer=name or None,
                location=_place(event) or (layer.location if layer is not None else None),
                evidence={"share": event["share"], "limit": self.share, "calls": len(events),
                          "same_batch": int(alone)},
                from_start=True,
            )  # fmt: skip


def _place(event: Mapping[str, Any]) -> Location | None:
    file, line = event["file"], event["line"]
    return Location(file, line) if isinstance(file, str) and isinstance(line, int) else None
