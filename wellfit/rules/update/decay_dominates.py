"""UPD505: weight decay is stronger than what the data ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wellfit.condition import PARTS, Condition, condition
from wellfit.finding import Finding, Fix
from wellfit.record import Optimizer, Parameter, Record
from wellfit.rule import Family, Rule
from wellfit.rules.decays import is_coupled, largest_decay
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.grids import grid
from wellfit.rules.layering import answers_alike
from wellfit.rules.ratios import weights

_LOWER = 0.95  # mean of an earlier twelfth over the threshold of a relapse: something had been learned before it


@dataclass(frozen=True)
class _Shrinking:
    """How the weights of one optimizer fell.

    Args:
        step: the step at which the median weight had lost half of its size.
        left: rms of the median weight at the last sample over that at the start.
        force: weight decay over gradient (or its share of the update, where it is not part of the gradient) until then.
        decay: the largest weight decay of a group.
        coupled: whether it is part of the gradient.
    """

    step: int
    left: float
    force: float
    decay: float
    coupled: bool


class DecayDominates(Rule):
    """Weight decay pulls the weights to zero faster than the gradient can build them up.

    What it checks
    In a run whose loss stays above `unlearned` of where it began, or of the level of guessing: the weights of an
    optimizer shrank, the median one below `shrunk` of its first size, and while they lost that size the decay was the
    stronger force. Where it is added to the gradient (SGD, Adam) that is weight_decay * |w| / |gradient| over all
    weights above `dominates`; where it acts on the weights themselves (AdamW), lr * weight_decay * |w| / |update| above
    `of_update`. Medians over the sampled steps. It is an error if the loss stays above `failed` of where it began, or
    rises above `relapsed` of it again for a while, or the model gives the same answer for all inputs (a variation below
    `same_answer`), else a note. Where the loss does
    not tell how a run fares (policies, GANs), the decay must be `silent_loss` times as strong.

    Why it hurts
    What the model learns is forgotten faster than it is learned: the weights, and with them activations and gradients,
    fade, and the loss stays high.

    Cure
    Lower the weight decay: 1e-4 or less where it is added to the gradient (SGD, Adam), 0.01 to 0.1 in AdamW. Leave
    biases and norm parameters out of it.

    Fix safety
    Unsafe: less decay is another compromise between fit and small weights. Judge it by the validation loss.

    When it is wrong
    Weights before a norm may shrink without harm, and weights that began far too large may have to: such runs learn,
    and nothing is said of a run that learns well.

    References
    Loshchilov, Hutter: Decoupled weight decay regularization (2019); Krogh, Hertz: A simple weight decay can improve
    generalization (1991).
    """

    code = "UPD505"
    name = "decay-dominates"
    family: ClassVar[Family] = "update"
    summary = "weight decay shrinks the weights faster than they learn"
    reads = ("parameter.rms", "gradient.rms", "update.rms", "loss")
    consequences = (
        "lr-high",
        "plateau",
        "output-collapse",
        "rank-collapse",
        "vanishing",
        "dead-units",
        "zero-grad-param",
        "lr-low",
        "update-lost",
        "fp16-underflow",
        "layer-imbalance",
    )
    fixes = (Fix("Take the weight decay away, then give it back in small parts", override="weight-decay=0"),)

    unlearned: float = 0.3  # loss at the end over the lower of first loss and chance; a run below has done its job
    failed: float = 0.5  # the same, from which on the run does not do its job
    relapsed: float = 0.9  # mean of a twelfth of the run over the lower of first loss and chance, after a lower one
    same_answer: float = 0.02  # batch variation of the output below which all inputs get one answer; healthy: >= 0.097
    silent_loss: float = 1.5  # times `dominates` or `of_update`, where the loss does not tell; faulty runs: 7 and more
    shrunk: float = 0.5  # rms of the median weight over its first; weights of healthy runs grow, or keep 0.6
    dominates: float = 1.0  # decay over gradient; healthy runs: 7e-4 to 0.02, faulty ones 1.4 and more
    of_update: float = 0.5  # share of the update; healthy runs: to 0.13
    sure_left: float = 0.1  # of its first size the median weight has left, to be told while the run lives

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _epoch in range(6):
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

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for _epoch in range(6):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if not any(largest_decay(record, optimizer) > 0 for optimizer in record.optimizers.values()):
            return
        state = condition(record)
        if state.verdict == "non-finite" or not (state.adversarial or fits_poorly(state, self.unlearned)):
            return
        trained = weights(record)
        for optimizer in record.optimizers.values():
            own = [parameter for parameter in trained if parameter.optimizer == optimizer.id]
            found = self._shrinking(record, optimizer, own, self.silent_loss if state.adversarial else 1.0)
            if found is not None:
                yield self._told(record, state, optimizer, found)
                return

    def _shrinking(
        self, record: Record, optimizer: Optimizer, own: Sequence[Parameter], times: float
    ) -> _Shrinking | None:
        """How the weights fell, if they lost half of their size and it was the decay that took it, by `times` what
        it must have been at least."""
        decay = largest_decay(record, optimizer)
        sizes = grid(record, "parameter", [parameter.name for parameter in own])
        if decay <= 0 or len(sizes.step) < 2:
            return None
        median = sizes.over_first().median
        fallen = np.flatnonzero(median < self.shrunk)
        if not len(fallen) or not median[-1] < self.shrunk:
            return None
        step = int(sizes.step[fallen[0]])
        coupled = is_coupled(optimizer)
        count = {parameter.name: parameter.size for parameter in own}
        pull = decay * sizes.norm(count)
        if not coupled:
            pull = pull * record.hyper("lr", optimizer.id).at(sizes.step)
        moved = grid(record, "gradient" if coupled else "update", sizes.names)
        common, here, there = np.intersect1d(sizes.step, moved.step, return_indices=True)
        pull, push = pull[here], moved.norm(count)[there]
        told = (common <= step) & np.isfinite(pull) & (push > 0) & np.isfinite(push)
        force = float(np.median(pull[told] / push[told])) if told.any() else 0.0
        if not force >= times * (self.dominates if coupled else self.of_update):
            return None
        return _Shrinking(step, float(median[-1]), force, decay, coupled)

    def _fails(self, record: Record, state: Condition, found: _Shrinking) -> bool:
        """Whether what was learned is lost, for good or for a while; or cannot have been learned, where the loss does
        not tell."""
        if state.adversarial or fits_poorly(state, self.failed) or answers_alike(record, self.same_answer):
            return True
        curve = record.loss()
        if len(curve) < 10 * PARTS:
            return False
        mean = np.array([float(np.mean(part)) for part in np.array_split(curve.value, PARTS)])
        begin = np.array([int(part[0]) for part in np.array_split(curve.step, PARTS)])
        level = self.relapsed * state.level
        again = np.flatnonzero((begin > found.step) & (mean > level))
        return bool(len(again)) and float(mean[: again[-1] + 1].min()) < _LOWER * level

    def _told(self, record: Record, state: Condition, optimizer: Optimizer, found: _Shrinking) -> Finding:
        much = (
            f"{found.force:.3g} times as strong as the gradient"
            if found.coupled
            else f"{100 * min(found.force, 1.0):.0f} % of each step"
        )
        stays = "" if state.adversarial else f", and the loss stays at {state.end:.4g} (it began at {state.start:.4g})"
        lower = min(found.decay / 100, 1e-4) if found.coupled else found.decay / 100
        return self.finding(
            f"weight decay {found.decay:g} wins over learning: it was {much}, the median weight is down to "
            f"{100 * found.left:.2g} % of its first size{stays}; lower the weight decay to {lower:.1g}",
            severity="error" if self._fails(record, state, found) else "note",
            step=found.step,
            location=optimizer.location,
            evidence={"decay": found.decay, "force": found.force, "left": found.left, "half_at_step": found.step,
                      "start": state.start, "end": state.end, "verdict": state.verdict},
            sure=record.finished or (state.verdict == "flat" and found.left < self.sure_left),
        )  # fmt: skip
