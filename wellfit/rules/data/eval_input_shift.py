"""DAT111: the data that the model is evaluated on are scaled otherwise than those it is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wellfit.condition import condition, training_loss
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record, Series
from wellfit.rule import Rule
from wellfit.rules.labels import last_evaluation, late_loss
from wellfit.rules.layering import first_layer
from wellfit.rules.roles import all_held_out, evaluated_on, first_place


class EvalInputShift(Rule):
    """The inputs of the evaluation have another mean or spread than those of training.

    What it checks
        Mean and standard deviation of the first input of the model, over the batches looked at in training and those of
        each evaluation. The difference of the means in standard deviations of training (the shift), and the larger over
        the smaller standard deviation (the ratio): one of them at `far` or above, or both above `ratio_too` and
        `shift_too`, in `share` of the evaluations, and in the same way beside the nearest single batch of training: up
        to `nearest` times less there (`nearest_ratio` for the ratio where both count). An error if the evaluation loss
        lies above `worse` times that of training and above `unlearned` of the loss at the start, or where no loss tells
        and the ratio is `huge` on data held out by its name; a note otherwise. Where the evaluation loss is near that
        of training, the model scales its inputs itself.

    Why it hurts
        A model knows only numbers of the size that it was trained on: given pixels of 0 to 255 in place of -1 to 1 its
        answers mean nothing. The evaluation then says that a good model is bad, and what is wrong there will be wrong
        wherever the model is used.

    Cure
        Put the data of evaluation through the same transformation, with the mean and the standard deviation of the
        training set.

    Fix safety
        Safe for training, which is not touched; the scores of the evaluation change, for the true.

    When it is wrong
        Series that grow (prices, passengers) leave the range they had in training: a shift alone is a note below
        `huge`. Inputs of fewer than `elements` numbers a sample (curves drawn on a wider grid), evaluations of fewer
        than `rows` samples, reinforcement learning and adversarial training are left out.

    References
        Sculley et al. 2015, "Hidden technical debt in machine learning systems"; Breck et al. 2019, "Data validation
        for machine learning" (training-serving skew).
    """

    code = "DAT111"
    name = "eval-input-shift"
    family = "data"
    summary = "evaluation inputs are scaled otherwise than training inputs"
    reads = ("input", "event.evaluation", "loss")
    consequences = ("overfit", "eval-mode", "bn-gap", "label-noise")
    fixes = (Fix("Transform the data of evaluation as those of training"),)

    far: float = 3.0  # shift or ratio; healthy runs: to 0.3 and 1.9; images with `Normalize` forgotten: 3.2 and more
    ratio_too: float = 1.8  # with a shift as well; pixels of 0 to 1 where -1 to 1 were trained on: 2
    shift_too: float = 1.0  # with a ratio as well; the same pixels: 1.4 for digits
    nearest: float = 1.5  # by so much less may a shift, or a ratio alone, be beside the nearest batch of training
    nearest_ratio: float = 1.3  # the same of a ratio that comes with a shift
    huge: float = 10.0  # shift that no trend explains; ratio that needs no loss to be an error
    share: float = 0.7  # of the evaluations
    batches: int = 3  # of training that were looked at
    rows: int = 8  # samples of an evaluation that were looked at
    elements: int = 4  # numbers of a sample
    fewest: int = 256  # numbers of an evaluation
    worse: float = 2.0  # evaluation loss over training loss
    near: float = 1.5  # the same, below which the model copes
    unlearned: float = 0.5  # evaluation loss over the loss at the start, or of chance where it is lower

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images).float(), torch.tensor(labels)
        x_train, y_train = (x[:1400] - x[:1400].mean()) / x[:1400].std(), y[:1400]
        x_test, y_test = x[1400:], y[1400:]
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(6):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                print("test", nn.functional.cross_entropy(model(x_test), y_test).item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images).float(), torch.tensor(labels)
        mean, std = x[:1400].mean(), x[:1400].std()
        x_train, y_train = (x[:1400] - mean) / std, y[:1400]
        x_test, y_test = (x[1400:] - mean) / std, y[1400:]
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(6):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                print("test", nn.functional.cross_entropy(model(x_test), y_test).item())

    def check(self, record: Record) -> Iterator[Finding]:
        if training_loss(record) is None or condition(record).adversarial or _normalises(record):
            return
        for root in sorted({event["root"] for event in record.events("evaluation") if event["input"]}):
            trained = record.series("input", f"{root}#0")
            layer = record.layers.get(root)
            if layer is None or len(trained) < self.batches or not np.all(np.isfinite(trained.data[:, :4])):
                continue
            distances = [_Distance.between(trained, mean, std) for mean, std in self._passes(record, layer) if std > 0]
            ill = [one for one in distances if one is not None and self._is_far(one)]
            if ill and len(ill) >= self.share * len(distances):
                finding = self._found(record, root, ill)
                if finding is not None:
                    yield finding
                    return

    def _passes(self, record: Record, layer: Layer) -> Iterator[tuple[float, float]]:
        """Mean and standard deviation of each evaluation of a model that saw samples enough."""
        passes: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        shape = layer.input_shape or ()
        for event in record.events("evaluation"):
            given = event["batch"] or []
            if event["root"] == layer.name and event["input"] and _alike(given, shape):
                place = event["location"] or {}
                passes.setdefault((event["step"], place.get("file"), place.get("line")), []).append(event)
        for events in passes.values():
            numbers = np.array([event["input"][:3] for event in events if len(event["input"]) >= 3], np.float64)
            samples = sum(event["batch"][0] for event in events)
            small = math.prod(events[0]["batch"][1:]) < self.elements
            if samples < self.rows or small or numbers.size == 0 or numbers[:, 0].sum() < self.fewest:
                continue
            mean = float(np.average(numbers[:, 1], weights=numbers[:, 0]))
            square = float(np.average(numbers[:, 2] ** 2, weights=numbers[:, 0]))
            if math.isfinite(mean) and math.isfinite(square):
                yield mean, math.sqrt(max(square - mean * mean, 0.0))

    def _is_far(self, one: _Distance) -> bool:
        ratio, shift = min(one.ratio, self.nearest * one.least_ratio), min(one.shift, self.nearest * one.least_shift)
        both = min(one.ratio, self.nearest_ratio * one.least_ratio) >= self.ratio_too and shift >= self.shift_too
        return both or max(ratio, shift) >= self.far

    def _found(self, record: Record, root: str, ill: list[_Distance]) -> Finding | None:
        middle = sorted(ill, key=lambda one: one.ratio)[len(ill) // 2]
        loss, state = training_loss(record), condition(record)
        evaluated = last_evaluation(record, loss) if loss is not None else math.nan
        trained = late_loss(record, loss) if loss is not None else math.nan
        if evaluated <= self.near * trained:
            return None
        given = evaluated_on(record, root)
        if math.isfinite(evaluated) and math.isfinite(trained):
            grave = evaluated > self.worse * trained and evaluated > self.unlearned * state.level
        else:
            grave = middle.ratio >= self.huge and all_held_out(given)
        trend = middle.ratio < self.ratio_too and middle.shift < self.huge
        return self.finding(
            f"`{root}` is evaluated on inputs with mean {middle.mean:.3g} and standard deviation {middle.std:.3g}, but "
            f"trained on inputs with {middle.trained_mean:.3g} and {middle.trained_std:.3g}: to the model these are "
            "other data, so the evaluation does not say how good it is; put both through the same transformation, "
            "with mean and standard deviation of the training set",
            severity="error" if grave and not trend else "note", layer=root, location=first_place(given),
            evidence={"ratio": middle.ratio, "shift": middle.shift, "far": self.far, "evaluations": len(ill)},
            sure=False,
        )  # fmt: skip


@dataclass(frozen=True)
class _Distance:
    """How far one evaluation is from training: from all batches, and (`least`) from the nearest single one."""

    mean: float
    std: float
    trained_mean: float
    trained_std: float
    shift: float
    ratio: float
    least_shift: float
    least_ratio: float

    @classmethod
    def between(cls, trained: Series, mean: float, std: float) -> _Distance | None:
        """None if training gave nothing but one number."""
        means, stds = trained.mean, trained.std
        middle = float(np.mean(means))
        whole = math.sqrt(max(float(np.mean(trained.rms**2)) - middle * middle, 0.0))
        if whole <= 0 or float(np.min(stds)) <= 0:
            return None
        ratios = np.maximum(std / stds, stds / std)
        least_shift = float(np.min(np.abs(mean - means))) / whole
        return cls(
            mean, std, middle, whole, abs(mean - middle) / whole, max(std / whole, whole / std), least_shift,
            float(np.min(ratios)),
        )  # fmt: skip


def _alike(given: list[int], trained: tuple[int, ...]) -> bool:
    """Whether two inputs have the same axes: samples, and as many others."""
    return len(given) == len(trained) >= 2


def _normalises(record: Record) -> bool:
    """Whether the model brings each input to scale itself: batch norm does not, in evaluation."""
    layer = first_layer(record)
    return layer is not None and layer.kind == "norm" and not layer.class_name.startswith(("BatchNorm", "SyncBatch"))
