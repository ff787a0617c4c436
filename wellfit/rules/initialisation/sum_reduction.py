"""INI207: the loss is a sum over the batch, and the learning rate is one for a mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import FEWEST_STEPS, Condition, classes, condition, loss_scale, training_loss
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import ends_far_above
from wellfit.rules.layering import first_backward
from wellfit.rules.memory import NEAR_CHANCE, learned_nothing
from wellfit.rules.ratios import update_ratios
from wellfit.rules.wiring import early_graphs

_FOLLOWS_SIZE = ("SGD", "ASGD")  # their steps are as long as the gradient; Adam and its kin are not


class SumReduction(Rule):
    """The loss is summed over the samples, so that gradients grow with the batch, and steps are too long.

    What it checks
    Whether backward is called on a sum: a loss function with `reduction="sum"` that is not divided afterwards, or one
    with `reduction="none"` or of the program's own that ends in `.sum()`; over `fewest` numbers or more, with plain
    SGD. Ill is such a run if it learns nothing or breaks, and its steps are long: the update ratio rms(update) /
    rms(weight) has a median above `long`, or reached `jump`, or ceased to be finite.

    Why it hurts
    Gradients are as many times larger as there are numbers in the sum: a learning rate that is right for a mean is far
    too high, and the last, smaller batch of an epoch takes shorter steps than the others.

    Cure
    Take the mean over the batch, or divide the learning rate by the size of the batch.

    Fix safety
    With the learning rate divided the program is the same; with the mean it is, but for the last batch.

    When it is wrong
    Sums with a learning rate that was chosen for them, as in variational autoencoders, train well and are not named;
    neither are they with Adam, whose steps do not depend on the scale.

    References
    Goyal et al. 2017, "Accurate, large minibatch SGD", on the scale of the loss and the learning rate.
    """

    code = "INI207"
    name = "sum-reduction"
    family: ClassVar[Family] = "initialisation"
    summary = "the loss is a sum over the batch, so steps are too long"
    reads = ("loss.reduction", "graph", "update.rms", "loss")
    consequences = (
        "lr-high",
        "diverged",
        "exploding",
        "recurrent-explode",
        "dead-units",
        "saturated",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "plateau",
        "non-finite-forward",
        "non-finite-grad",
        "oscillation",
        "grad-spike",
        "spike",
        "zero-grad-param",
        "lr-low",
        "vanishing",
    )
    fixes = (
        Fix("Take the mean over the batch"),
        Fix("Divide the learning rate by the size of the batch"),
    )

    fewest: int = 8  # numbers in the sum; with fewer it is not what makes steps long
    long: float = 0.03  # median of rms(update) / rms(weight) over the run; most healthy runs stay below 0.021
    jump: float = 0.5  # the same, of one weight in one of the first five steps; healthy: to 0.25, with batch norm 0.69
    sure_steps: int = 100  # steps after which a verdict on the run stands

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        criterion = nn.CrossEntropyLoss(reduction="sum")
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(100):
                optimizer.zero_grad()
                loss = criterion(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.003)
        criterion = nn.CrossEntropyLoss(reduction="sum")
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(100):
                optimizer.zero_grad()
                loss = criterion(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        optimizers = list(record.optimizers.values())
        if not optimizers or any(optimizer.class_name not in _FOLLOWS_SIZE for optimizer in optimizers):
            return
        summed = self._known(record) or self._own(record)
        if summed is None:
            return
        count, where, how = summed
        state = condition(record)
        if count < self.fewest or not self._long_steps(record, state) or not self._breaks(record, state, count):
            return
        fares = {"non-finite": "the loss is not finite", "diverging": "the loss rises"}.get(
            state.verdict, "nothing is learned"
        )
        yield self.finding(
            f"the loss is a sum over {count} numbers ({how}), so gradients are about {count} times those of a mean, "
            f"steps are too long and {fares}; take the mean, or divide the learning rate by {count}",
            severity="error", step=0, location=where,
            evidence={"numbers": count, "verdict": state.verdict, "long": self.long},
            sure=record.finished or state.verdict == "non-finite" or record.step_count >= self.sure_steps,
        )  # fmt: skip

    def _known(self, record: Record) -> tuple[int, Location | None, str] | None:
        """(numbers, place, how) of a loss function of PyTorch's that sums, and is not divided before backward."""
        trained = [loss for loss in record.losses.values() if loss.training]
        if len(trained) != 1 or trained[0].reduction != "sum":
            return None
        loss = trained[0]
        scale = loss_scale(record, record.loss())
        shape = loss.target_shape or loss.prediction_shape
        if shape is not None and loss.function == "cross_entropy" and shape == loss.prediction_shape:
            shape = shape[:1] + shape[2:]  # targets are probabilities, and one number stands for all classes
        if not 0.5 < scale < 2 or not shape:
            return None
        return math.prod(shape), loss.location, f'{loss.function} with reduction="sum"'

    def _own(self, record: Record) -> tuple[int, Location | None, str] | None:
        """The same of a loss of the program's own: the last operation before backward is a sum of a whole tensor."""
        if any(loss.training and loss.reduction != "none" for loss in record.losses.values()):
            return None
        graphs = early_graphs(record)
        node = graphs[0].loss if len(graphs) == 1 else None
        if node is None or node.function != "sum" or not node.op.startswith("Sum") or not node.shapes:
            return None
        return math.prod(node.shapes[0]), node.location or first_backward(record), ".sum()"

    def _long_steps(self, record: Record, state: Condition) -> bool:
        """Whether steps are as long as a learning rate makes them that is far too high."""
        ratios = update_ratios(record)
        if not len(ratios.names):
            return state.verdict == "non-finite"
        median, largest = ratios.median, ratios.largest[:5]
        if np.any(largest > self.jump) or np.any(np.isinf(ratios.largest)):
            return True
        known = median[np.isfinite(median)]
        return bool(len(known)) and float(np.median(known)) > self.long

    def _guesses(self, record: Record, count: int) -> bool:
        """Whether the last quarter of the run is no better than guessing, of which nothing is known for sums."""
        loss, number = training_loss(record), classes(record)
        if loss is None or loss.attributes.get("weight") or len(record.loss()) < FEWEST_STEPS:
            return False
        two = loss.function in ("binary_cross_entropy", "binary_cross_entropy_with_logits")
        level = count * math.log(2 if two else number or 1)
        value = record.loss().value
        return float(np.mean(value[-(len(value) // 4) :])) >= NEAR_CHANCE * level > 0

    def _breaks(self, record: Record, state: Condition, count: int) -> bool:
        """Whether the run learns nothing or worse; a short one if it ends far above where it began."""
        return learned_nothing(record, state) or self._guesses(record, count) or ends_far_above(record, state)
