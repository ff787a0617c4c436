"""CRV607: evaluation is far better than training, and nothing makes training harder."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Curve, Loss, Record
from wellfit.rule import Family, Rule
from wellfit.rules.batch_norms import batch_norms
from wellfit.rules.dropouts import drops
from wellfit.rules.labels import evaluated_alike, is_weighted, labelled, training_scale
from wellfit.rules.roles import named_target
from wellfit.source import Source, main_source, target_origin

# Words of programs whose training batches are harder than, or not like, those of the evaluation.
_HARDER = re.compile(
    r"augment|transforms|Random[A-Z]|mixup|cutmix|noise|noisy|randn_like|bernoulli|jitter|flip|crop|rotat|perturb|"
    r"attack|advers|corrupt|mask|smooth|sampler|distil|teacher|warp|erase|drop|stochastic|curriculum|"
    r"balanc|oversampl|undersampl",
    re.IGNORECASE,
)
_PLAIN = {
    "__future__", "argparse", "collections", "copy", "csv", "dataclasses", "datetime", "functools", "gzip", "itertools",
    "json", "logging", "math", "matplotlib", "numpy", "os", "pandas", "pathlib", "pickle", "random", "re", "scipy",
    "sklearn", "statistics", "sys", "time", "torch", "tqdm", "typing", "urllib", "warnings", "wellfit",
}  # fmt: skip


class ValTooGood(Rule):
    """The evaluation loss lies far below the training loss, though training is not made harder.

    What it checks
    Losses of a classifier, by the same function in training and in evaluation, pass by pass: the mean of an evaluation
    over the lower one of the mean training losses just before and just after it. If that is below `share` in each of
    the last `passes` passes, while the training loss keeps `unlearned` or more of the entropy of its labels, it is an
    error; below `half` with `partly` or more left it is a note. Programs with dropout, batch norm on few samples,
    weights of classes, augmentation, noise, sampling, or code in files of their own are left alone, and evaluations of
    fewer than `rows` samples.

    Why it hurts
    Samples of one kind give about the same loss, and those trained on a smaller one. If not, the two sets are not of
    one kind: labels of training that belong to other rows, a validation set of easy or few samples, or one whose labels
    were made from the inputs or from the model. The scores then do not say how well the model does.

    Cure
    Look at samples of both sets with their labels; count the classes in each; draw the validation set at random from
    the same data, before anything else is done to it.

    Fix safety
    Nothing is changed by looking.

    When it is wrong
    Training on labels that are known to be noisy, with a clean validation set, is such a case by design.

    References
    Northcutt, Athalye, Mueller 2021, "Pervasive label errors in test sets"; UMLAUT has a rule on validation accuracy
    above that of training.
    """

    code = "CRV607"
    name = "val-too-good"
    family: ClassVar[Family] = "curve"
    summary = "evaluation far better than training: the sets are not alike"
    reads = ("loss", "labels")
    consequences = ("plateau", "underfit")
    fixes = (Fix("Compare samples and labels of the two sets"),)

    passes: int = 3  # evaluation passes in a row
    share: float = 0.7  # evaluation loss over training loss; healthy runs without dropout: 0.85 and more
    half: float = 0.5  # the same, for a note where training does better
    unlearned: float = 0.6  # training loss over the entropy of its labels, for an error
    partly: float = 0.3  # the same, for a note
    rows: int = 30  # samples in a batch of the evaluation
    elements: int = 16  # of each channel of a batch norm: with fewer its noise makes training harder

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        mixed = torch.randperm(len(x))
        x, y = x[mixed], y[mixed]
        x_val, y_val = x[1400:], y[1400:]
        order = torch.randperm(700)
        x_train = torch.cat([x[:700], x[700:1400][order]])  # these rows are put in another order, their labels are not
        y_train = y[:1400]
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x_val), y_val).item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        mixed = torch.randperm(len(x))
        x, y = x[mixed], y[mixed]
        x_val, y_val = x[1400:], y[1400:]
        order = torch.randperm(1400)
        x_train, y_train = x[order], y[order]
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x_val), y_val).item())

    def check(self, record: Record) -> Iterator[Finding]:
        if condition(record).adversarial or self._harder(record):
            return
        for loss, labels in labelled(record):
            scale = training_scale(record)
            if loss.reduction != "mean" or is_weighted(loss) or not math.isfinite(scale):
                continue
            entropy = float(labels["pool_entropy"][-1])
            for other in evaluated_alike(record, loss):
                if self._comparable(loss, other):
                    finding = self._judged(record, loss, record.evaluations(other.id), scale, entropy)
                    if finding is not None:
                        yield finding
                        return

    def _comparable(self, loss: Loss, other: Loss) -> bool:
        """Whether two losses by one function give the same number for samples of the same kind."""
        shape, own = other.prediction_shape or (), loss.prediction_shape or ()
        same = (loss.attributes, loss.target_dtype, own[1:]) == (other.attributes, other.target_dtype, shape[1:])
        return same and len(shape) > 0 and shape[0] >= self.rows

    def _judged(self, record: Record, loss: Loss, passes: Curve, scale: float, entropy: float) -> Finding | None:
        place = np.flatnonzero((passes.step > 0) & np.isfinite(passes.value))[-self.passes :]
        if len(place) < self.passes:
            return None
        beside = np.array([_training_beside(record, passes, int(at)) for at in place]) / scale
        with np.errstate(all="ignore"):
            ratio = passes.value[place] / beside
        if not np.all(np.isfinite(ratio)) or np.any(ratio < 0):
            return None
        left, worst = float(np.min(beside)) / max(entropy, 1e-12), float(np.max(ratio))
        grave = worst < self.share and left >= self.unlearned
        if not grave and not (worst < self.half and left >= self.partly):
            return None
        where, trained = float(passes.value[place[-1]]), float(beside[-1])
        return self.finding(
            f"the evaluation loss is {where:.3g} where the training loss is {trained:.3g}, in {self.passes} passes in "
            "a row, and no dropout or noise makes training harder: the two sets are not of one kind (labels of "
            "training that belong to other rows, or a validation set that is too easy); compare samples and labels of "
            "both",
            severity="error" if grave else "note", step=int(passes.step[place[0]]),
            location=named_target(loss.location) or target_origin(loss.location)[0] or loss.location,
            evidence={"evaluation": where, "training": trained, "ratio": worst, "share": self.share, "left": left},
            sure=record.finished,
        )  # fmt: skip

    def _harder(self, record: Record) -> bool:
        """Whether something makes training harder than evaluation, as far as can be told."""
        small = any(np.median(series["elements"]) < self.elements for _, series in batch_norms(record))
        source = main_source(record)
        if small or drops(record) or source is None:
            return True
        return _hints_at_more(source)


@lru_cache(maxsize=16)
def _hints_at_more(source: Source) -> bool:
    """Whether the names in a program hint at harder training, or it has data or models in other files."""
    names = {node.id for node in source.nodes(ast.Name)} | {node.attr for node in source.nodes(ast.Attribute)}
    names |= {node.name for node in source.nodes(ast.FunctionDef)} | {node.name for node in source.nodes(ast.ClassDef)}
    packages = {alias.name.partition(".")[0] for node in source.nodes(ast.Import) for alias in node.names}
    packages |= {(node.module or ".").partition(".")[0] for node in source.nodes(ast.ImportFrom)}
    return any(_HARDER.search(name) for name in names) or not packages <= _PLAIN


def _training_beside(record: Record, passes: Curve, place: int) -> float:
    """The lower one of the mean training losses just before and just after an evaluation pass; NaN for too few."""
    curve = record.loss()
    step = int(passes.step[place])
    before = int(passes.step[place - 1]) if place else 0
    width = max(5, (step - before) // 4)
    parts = [(curve.step >= step - width) & (curve.step < step), (curve.step >= step) & (curve.step < step + width)]
    means = [float(np.mean(curve.value[part])) for part in parts if np.count_nonzero(part) >= 5]
    return min(means, default=math.nan)
