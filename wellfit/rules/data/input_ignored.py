"""DAT108: the model learns no more with its input than without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np

from wellfit.condition import condition, training_loss
from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Family, Rule
from wellfit.rules.by_heart import ByHeart, by_heart


class InputIgnored(Rule):
    """Given zeros in place of data, the model learns as well as with them.

    What it checks
    `wellfit check` only: the losses of the last third of a run under `zero-input`, against those of the run as it is at
    the same steps. They differ by less than `same` of the former and by less than `errors` standard errors. That is an
    error where the model cannot use its input: either its outputs are the same for all samples of a batch (they vary by
    less than `variation` of their size), or a run under `one-batch` came to rest high, too. Where the model does learn
    one batch by heart, its input reaches it, and it is noted that the data say nothing about the targets. Not judged
    are fewer than `steps` steps, runs that diverge, and losses that need not fall (GANs, policies).

    Why it hurts
    All that the model knows is how frequent the answers are, or their mean: a table of one row would do as well.

    Cure
    Follow the input to the output: it may be scaled to 0, rounded away, averaged over the wrong axis, masked,
    multiplied by a gate that is shut, or given to a part that nothing is made of. Where the model uses it, look whether
    inputs and targets belong together: a shuffle of one without the other looks like this.

    Fix safety
    Looking changes nothing.

    When it is wrong
    Weak data, and tasks that take more steps than the check makes before the input is of use: noted only.

    References
    Karpathy 2019, "A Recipe for Training Neural Networks", "input-independent baseline".
    """

    code = "DAT108"
    name = "input-ignored"
    family: ClassVar[Family] = "data"
    summary = "the model learns as much when it is given zeros: its input is unused"
    reads = ("loss", "output")
    consequences = ("cannot-overfit", "plateau", "output-collapse", "rank-collapse", "underfit", "lr-low", "init-gain")
    fixes = (Fix("Follow the input to the output, and see where it is lost", safe=True),)
    trials = ("zero-input", "one-batch")
    explained_like = "plateau"

    steps: int = 100  # of both runs
    same: float = 0.02  # share of the loss without input; examples that learn differ by 0.3 and more
    errors: float = 3.0  # standard errors of the difference
    variation: float = 0.001  # of the outputs over a batch, in their own size; new models have 0.1 and more

    @staticmethod
    def sick() -> None:
        import torch
        import torch.nn.functional as F
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Linear(8, 32)
                self.head = nn.Linear(8, 10)

            def forward(self, x):  # (batch, rows, pixels)
                x = F.layer_norm(torch.relu(self.embed(x)), (32,))
                return self.head(x.mean(dim=2))  # over the features, which layer_norm has made 0, not over the rows

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float().view(-1, 8, 8), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        import torch.nn.functional as F
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Linear(8, 32)
                self.head = nn.Linear(256, 10)

            def forward(self, x):
                x = F.layer_norm(torch.relu(self.embed(x)), (32,))
                return self.head(x.flatten(1))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float().view(-1, 8, 8), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check_trial(self, record: Record, companions: Mapping[str, Record]) -> Iterator[Finding]:
        trial = companions.get("zero-input")
        if trial is None:
            return
        state, without = condition(record), condition(trial)
        if state.adversarial or without.adversarial or {"non-finite", "diverging"} & {state.verdict, without.verdict}:
            return
        compared = self._compared(record, trial)
        if compared is None:
            return
        learned = by_heart(companions["one-batch"]) if "one-batch" in companions else None
        variation = _variation(record)
        loss = training_loss(record)
        site = record.backward_sites.get(next(iter(record.loss_sites()), -1))
        location = (loss.location if loss else None) or (site.location if site else None)
        evidence = {"with_input": compared[0], "without_input": compared[1], "steps": record.step_count}
        if variation == variation:
            evidence["variation_of_outputs"] = variation
        said = f"the loss is {compared[0]:.3g} with the input and {compared[1]:.3g} without it (zeros)"
        if self._is_lost(learned, variation) and loss is not None:
            yield self.finding(
                f"{said}, and the model cannot use it: {_why(learned, variation, self.variation)}; follow the input to "
                "the output and see where it is lost",
                severity="error", location=location, evidence=evidence,
            )  # fmt: skip
        elif learned is not None and learned.outcome == "learned":
            yield self.finding(
                f"{said}, though the model can learn one batch by heart: in {record.step_count} steps the data have "
                "said nothing about the targets; see whether each input has its own target, or train longer",
                severity="note", location=location, evidence=evidence,
            )  # fmt: skip

    def _is_lost(self, learned: ByHeart | None, variation: float) -> bool:
        """Whether the model itself is proved to make no use of its input."""
        if learned is not None and learned.outcome == "learned":
            return False
        return variation < self.variation or (learned is not None and learned.outcome == "rests")

    def _compared(self, record: Record, trial: Record) -> tuple[float, float] | None:
        """The mean losses of the last third with and without input, if they are the same; else None."""
        true, zero = record.loss(), trial.loss()
        steps = np.intersect1d(true.step, zero.step)
        if len(steps) < self.steps:
            return None
        late = steps[len(steps) * 2 // 3 :]
        one, other = true.at(late), zero.at(late)
        known = np.isfinite(one) & np.isfinite(other)
        if known.sum() < len(late) / 2:
            return None
        with_input, without = float(np.mean(one[known])), float(np.mean(other[known]))
        difference = one[known] - other[known]
        error = float(np.std(difference)) / math.sqrt(int(known.sum()))
        bound = self.same * abs(without)
        # Both: noise alone must not make two losses the same, nor must a bias of one in a thousand make them differ.
        same = abs(with_input - without) < bound and self.errors * error < 2 * bound
        return (with_input, without) if same else None


def _variation(record: Record) -> float:
    """How much the prediction varies over the samples of a batch, in its own size, late in the run; NaN if unknown."""
    loss = training_loss(record)
    series = record.series("output", str(loss.id)) if loss is not None else None
    if series is None or len(series) < 4:
        return math.nan
    late = series.b[len(series) // 2 :]
    return float(np.median(late[np.isfinite(late)])) if np.isfinite(late).any() else math.nan


def _why(learned: ByHeart | None, variation: float, least: float) -> str:
    if variation < least:
        return "it gives all samples of a batch the same answer"
    share = "" if learned is None or learned.share != learned.share else f" ({100 * learned.share:.0f} % is left)"
    return f"not even one batch can be learned by heart{share}"
