"""DAT107: samples that the model is evaluated on were trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition, training_loss
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record, Samples, location_of
from wellfit.rule import Rule
from wellfit.rules.roles import all_held_out, evaluated_on, first_place


class SplitLeak(Rule):
    """The data held out for validation or test holds samples that the model is trained on.

    What it checks
        Fingerprints of the rows of the model's first input, in training steps and in evaluation, that are the same to
        the last bit. A share of `share` of the unequal rows of the evaluation or more, at least `rows` of them, is a
        finding, and an error from `grave` on, if all the data that the model is evaluated on is held out by its name in
        the program ("x_test", "val_loader"). Not all rows are looked at, so the true share is larger.

    Why it hurts
        What was trained on is known by heart: the evaluation says how well the model remembers, not how well it does on
        data that it has never seen. Overfitting does not show, and the wrong model or moment is chosen.

    Cure
        Split first, by index or by group (person, document), and only then repeat, oversample, augment or shuffle;
        check that the two sets of indices have none in common.

    Fix safety
        Unsafe: the scores change, for the worse and for the true.

    When it is wrong
        Data of few different rows (short texts, categories) has equal rows by nature: inputs of fewer than `elements`
        elements, or `whole_elements` whole numbers, are left out. So are programs that make several models in turn
        (folds), play (reinforcement), or evaluate on training data as well. Augmented samples are not recognised.

    References
        Kaufman et al. 2012, "Leakage in data mining"; Kapoor and Narayanan 2023, "Leakage and the reproducibility
        crisis in machine-learning-based science", L1.
    """

    code = "DAT107"
    name = "split-leak"
    family = "data"
    summary = "validation or test samples are among those trained on"
    reads = ("samples", "event.evaluation")
    consequences = ("val-too-good",)
    fixes = (Fix("Split the data before anything else is done to it"),)

    share: float = 0.05  # of the unequal rows evaluated that were trained on; duplicates in clean data: below 0.035
    grave: float = 0.2  # the same, for an error; natural twins among passengers of the Titanic: 0.12
    rows: int = 10  # of both
    elements: int = 8  # of a row of floating-point numbers
    whole_elements: int = 32  # of a row of whole numbers (tokens): shorter ones repeat by nature

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        rare = y >= 8  # oversampled before the split
        x, y = torch.cat([x, x[rare].repeat(3, 1)]), torch.cat([y, y[rare].repeat(3)])
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(len(x_train)).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                print("accuracy", (model(x_test).argmax(1) == y_test).float().mean().item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
        rare = y_train >= 8
        x_train = torch.cat([x_train, x_train[rare].repeat(3, 1)])
        y_train = torch.cat([y_train, y_train[rare].repeat(3)])
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(len(x_train)).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                print("accuracy", (model(x_test).argmax(1) == y_test).float().mean().item())

    def check(self, record: Record) -> Iterator[Finding]:
        if len(np.unique(record.steps["a"])) != 1 or _evaluates_with_gradient(record) or not _supervised(record):
            return
        for root, samples in record.samples.items():
            share = samples.shared / samples.evaluated if samples.evaluated else 0.0
            if share < self.share or samples.shared < self.rows or not self._telling(record, root):
                continue
            given = evaluated_on(record, root)
            if all_held_out(given):
                yield self._found(root, samples, share, first_place(given))
                return

    def _telling(self, record: Record, root: str) -> bool:
        """Whether two rows of the model's input are hardly equal by chance."""
        layer = record.layers.get(root)
        if layer is None or not layer.input_shape or len(layer.input_shape) < 2:
            return False
        real = len(record.series("input", f"{root}#0")) > 0
        return math.prod(layer.input_shape[1:]) >= (self.elements if real else self.whole_elements)

    def _found(self, root: str, samples: Samples, share: float, where: Location | None) -> Finding:
        return self.finding(
            f"{samples.shared} of {samples.evaluated} samples that `{root}` was evaluated on were also trained on "
            f"({100 * share:.0f} % of those looked at, {samples.trained} of training): the evaluation tells how well "
            "they are remembered, not how well the model does on new data; split the data before repeating or "
            "shuffling it, and check that no index is in both parts",
            severity="error" if share >= self.grave else "note", layer=root, location=where,
            evidence={"shared": samples.shared, "evaluated": samples.evaluated, "trained": samples.trained,
                      "share": share, "grave": self.grave},
            sure=False,
        )  # fmt: skip


def _supervised(record: Record) -> bool:
    """Whether a loss compares with targets that stay: in a game states come back by nature, trained on or not."""
    return training_loss(record) is not None and not condition(record).adversarial


def _evaluates_with_gradient(record: Record) -> bool:
    """Whether the model was put in eval mode and then called with gradient: what it is given looks like training."""
    seen = {event["step"] for event in record.events("evaluation")}
    paused = {event["step"] for event in record.events("mode") if not event["training"] and location_of(event)}
    return bool({step for step in paused if 0 < step < record.step_count} - seen)
