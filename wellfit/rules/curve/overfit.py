"""CRV605: the evaluation loss rises while the training loss falls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Curve, Record
from wellfit.rule import Family, Rule


class Overfit(Rule):
    """The model learns its training data by heart: the evaluation loss rises while the training loss still falls.

    What it checks
    The mean of each loss that is computed without gradient, pass by pass. Ill is one whose last `passes` passes (or
    `passes_large`, where it rose to `large` times its best) all lie `margin` above its best, that rises from the best
    on with a slope of more than `errors` standard errors, and ends at `grave` times its best or more, while the
    training loss fell on. A smaller rise is noted.

    Why it hurts
    After its best pass the model gets better only at what it has seen, and ever more sure of its mistakes.

    Cure
    Keep the weights of the best pass (early stopping), add dropout or weight decay, augment or gather data, or take a
    smaller model.

    Fix safety
    Early stopping is safe. The others change the model or the data.

    When it is wrong
    Accuracy may still improve while the loss rises, since a few sure mistakes weigh most; if accuracy is what counts,
    stop at its best instead. Evaluation data that differ from pass to pass may look like this.

    References
    Prechelt 1998, "Early Stopping - But When?"; Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """

    code = "CRV605"
    name = "overfit"
    family: ClassVar[Family] = "curve"
    summary = "evaluation loss rises while training loss falls"
    reads = ("loss",)
    consequences = ()
    fixes = (
        Fix("Stop at the best evaluation and keep its weights", safe=True),
        Fix("Add dropout", override="dropout=0.5"),
        Fix("Add weight decay", override="weight-decay=0.01"),
    )

    passes: int = 5  # evaluation passes in a row above the best
    passes_large: int = 3  # the same where the rise is large
    margin: float = 1.05  # evaluation loss over its best
    large: float = 1.5  # evaluation loss over its best
    grave: float = 1.25  # evaluation loss at the end over its best, for an error
    errors: float = 2.0  # standard errors of the slope

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_breast_cancer
        from torch import nn

        torch.manual_seed(0)
        x, y = load_breast_cancer(return_X_y=True)
        x = torch.tensor((x - x.mean(0)) / x.std(0)).float()
        y = torch.tensor(y)
        flip = torch.rand(len(y)) < 0.3
        y = torch.where(flip, 1 - y, y)
        model = nn.Sequential(nn.Linear(30, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _epoch in range(16):
            model.train()
            for batch in torch.randperm(300).split(30):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x[300:]), y[300:]).item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_breast_cancer
        from torch import nn

        torch.manual_seed(0)
        x, y = load_breast_cancer(return_X_y=True)
        x = torch.tensor((x - x.mean(0)) / x.std(0)).float()
        y = torch.tensor(y)
        model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _epoch in range(16):
            model.train()
            for batch in torch.randperm(300).split(30):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x[300:]), y[300:]).item())

    def check(self, record: Record) -> Iterator[Finding]:
        if condition(record).adversarial:
            return
        for loss in record.evaluated_losses():
            finding = self._judged(record, loss, record.evaluations(loss))
            if finding is not None:
                yield finding
                return

    def _judged(self, record: Record, loss: int, curve: Curve) -> Finding | None:
        finite = np.isfinite(curve.value)
        value, step = curve.value[finite], curve.step[finite]
        if len(value) < self.passes_large + 1:
            return None
        place = int(np.argmin(value))
        best, end = float(value[place]), float(np.median(value[-self.passes_large :]))
        needed = self.passes_large if best > 0 and end > self.large * best else self.passes
        rest = value[place + 1 :]
        if best <= 0 or len(rest) < needed or not np.all(rest[-needed:] > self.margin * best):
            return None
        if _slope(value[place:]) < self.errors or not _training_fell(record, int(step[place])):
            return None
        grave = end > self.grave * best
        about = record.losses.get(loss)
        where, named = _where(record, about.location if about else None)
        return self.finding(
            f"the evaluation loss rose from {best:.4g} (pass {place + 1} of {len(value)}) to {end:.4g} while the "
            "training loss fell on, so the model learns its training data by heart; stop at the best pass, or add "
            f"dropout or weight decay{f' (`{named}` holds most of the parameters)' if named else ''}",
            severity="error" if grave else "note", step=int(step[place]), layer=named, location=where,
            evidence={"best": best, "end": end, "best_pass": place + 1, "passes": len(value), "margin": self.margin,
                      "grave": self.grave},
            sure=record.finished or end > 2 * best,
        )  # fmt: skip


def _slope(value: np.ndarray) -> float:
    """Slope of a straight line through the values, in its own standard errors."""
    x = np.arange(len(value)) - (len(value) - 1) / 2
    slope = float(x @ value / (x @ x))
    left = value - value.mean() - slope * x
    error = float(np.sqrt(left @ left / max(len(value) - 2, 1) / (x @ x)))
    return slope / error if error > 0 else np.inf * np.sign(slope)


def _training_fell(record: Record, step: int) -> bool:
    """Whether the training loss at the end is lower than around the best evaluation."""
    curve = record.loss()
    value = np.where(np.isfinite(curve.value), curve.value, np.nan)
    width = max(5, len(value) // 20)
    around = value[(curve.step >= step - width) & (curve.step < step)]
    late = value[-width:]
    if not np.isfinite(around).any() or not np.isfinite(late).any():
        return False
    return bool(np.nanmedian(late) < 0.98 * np.nanmedian(around))


def _where(record: Record, fallback: Location | None) -> tuple[Location | None, str | None]:
    """The layer to regularise, where nothing is dropped yet: that with most parameters; else where training runs."""
    drops = [layer for layer in record.layers.values() if layer.kind == "dropout" and layer.attributes.get("p", 0)]
    sizes: dict[str, int] = {}
    for parameter in record.parameters.values():
        if parameter.optimizer is not None and parameter.layer in record.layers:
            sizes[parameter.layer] = sizes.get(parameter.layer, 0) + parameter.size
    if not drops and sizes:
        name = max(sizes, key=lambda one: sizes[one])
        place = record.layers[name].location
        if place is not None:
            return place, name
    site = next(iter(record.loss_sites()), -1)
    place = record.backward_sites[site].location if site in record.backward_sites else None
    return place or fallback, None
