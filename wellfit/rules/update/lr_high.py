"""UPD501: the steps are too long for the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import Condition, condition, loss_scale, rise, training_loss
from wellfit.finding import Finding, Fix, Location, Severity
from wellfit.record import Optimizer, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import ends_far_above
from wellfit.rules.fresh import all_new
from wellfit.rules.grids import Grid
from wellfit.rules.labels import last_evaluation, training_scale
from wellfit.rules.layering import first_backward
from wellfit.rules.ratios import update_ratios


class LrHigh(Rule):
    """The learning rate is too high: each step changes the weights by a large part of their own size.

    What it checks
    The update ratio u = rms(update) / rms(weight) of every weight matrix. Ill is a run whose loss is flat, diverging,
    not finite or ends at `near_chance` of the loss of guessing, and whose median u stays above `high` for `steps`
    sampled steps, or reached `first_jump` in one of the first five steps while the loss rose `rose` times. A run that
    learns is ill if the median u of its first `steps` steps was above `violent`, the loss was thrown up `thrown` times
    by them (or u was above `very_violent`), and it, or its last evaluation, ends above `poor` of where it began or of
    guessing. Where the loss says nothing (two networks that play against each other), u above `very_violent` of weights
    that began as torch or the papers draw them is enough. Also gradients that are summed over
    `accumulated` or more backward calls without dividing the loss, which is a learning rate that many times higher.

    Why it hurts
    The gradient is a good guide only near where it was taken. Steps that long jump over every minimum, kill ReLU units,
    saturate the others, or let the loss grow without bound.

    Cure
    Divide the learning rate by 3 to 10, or let it warm up over the first hundred steps; clip the gradient norm. Where
    the first step was a multiple of `violent`, or later ones of `high`, the power of ten nearest to that is proposed,
    up to `most_too_high`. Where gradients are accumulated, divide the loss by the number of backward calls in a step.

    Fix safety
    Safe: the program means the same, and the change can be taken back.

    When it is wrong
    Another illness can make the steps long (raw inputs, an initialisation far off, stale gradients): these rules name
    this one as their consequence. A run that learns although its steps
    are longer than `very_high` is only noted.

    References
    Smith 2017, "Cyclical Learning Rates"; Karpathy's update ratio of about 1e-3; healthy runs of ours: 8e-4 to 0.064.
    """

    code = "UPD501"
    name = "lr-high"
    family: ClassVar[Family] = "update"
    summary = "learning rate too high: steps as long as the weights"
    reads = ("update.rms", "loss")
    consequences = (
        "grad-spike",
        "spike",
        "diverged",
        "plateau",
        "dead-units",
        "saturated",
        "exploding",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "overfit",
        "non-finite-forward",
        "non-finite-grad",
        "zero-grad-param",
        "vanishing",
        "init-gain",
        "never-updated",
        "lr-low",
        "scaler-thrash",
        "overflow-near",
    )
    fixes = (
        Fix("Divide the learning rate by 10", override="lr=scale:0.1", safe=True),
        Fix("Warm the learning rate up", override="warmup=100", safe=True),
    )

    high: float = 0.03  # median of rms(update)/rms(weight); most healthy runs stay below 0.021
    very_high: float = 0.1  # the same over the second half of a run that learns, to be noted; healthy runs reach 0.064
    steps: int = 10  # sampled steps in a row
    first_jump: float = 0.5  # largest ratio of a weight in the first five steps; healthy: to 0.25, with batch norm 0.69
    rose: float = 1.5  # loss after the jump over the loss before it
    violent: float = 0.1  # median ratio over the weights in the first ten steps; healthy runs: to 0.071
    very_violent: float = 0.2  # the same; healthy: to 0.15 (0.29 in an RBM, whose weights begin near 0)
    thrown: float = 2.0  # mean of five losses among the first thirty over the first one; healthy runs: to 1.5
    poor: float = 0.5  # mean of the last losses over the lower of first loss and guessing
    near_chance: float = 0.9  # mean loss of the last quarter over the loss of guessing, for a run that learned nothing
    ill_from_start: float = 1000.0  # first loss over the loss of guessing: such a network was ill before any step
    most_too_high: int = 1000  # times: the most by which the rate is to be divided; further than that is a guess
    accumulated: int = 2  # backward calls in a step from which an undivided loss is one that is too large

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=30.0)
        for _epoch in range(3):
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
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        ratios = update_ratios(record)
        optimizer = _main_optimizer(record, ratios)
        if state.adversarial:
            found = self._violence(record, ratios)
            new = all_new(record, [record.parameters[name] for name in ratios.names if name in record.parameters])
            if found is not None and found[2] > self.very_violent and new:
                yield self._told(record, state, optimizer, found, self._factor(record, ratios, found), "error")
            return
        found = self._first_jump(record, ratios) or self._long_steps(ratios) or self._violence(record, ratios)
        if found is None:
            return
        what, step, ratio = found
        if not self._rose_before_it_broke(record, state):
            return
        if not self._ill(record, state) and not self._thrown_back(record, state, ratios):
            late = ratios.median[len(ratios.median) // 2 :]
            if record.finished and what == "long" and np.nanmedian(late) > self.very_high:
                yield self._told(record, state, optimizer, found, self._factor(record, ratios, found), "note")
            return
        summed = self._undivided(record, optimizer)
        if summed is not None:
            yield self._told_undivided(state, optimizer, step, ratio, *summed)
        else:
            yield self._told(record, state, optimizer, found, self._factor(record, ratios, found), "error")

    def _rose_before_it_broke(self, record: Record, state: Condition) -> bool:
        """A run whose numbers ceased to be finite: long steps are to blame only if the loss grew before."""
        if state.bad_step is None:
            return True
        curve = record.loss()
        before = curve.value[(curve.step < state.bad_step) & np.isfinite(curve.value)]
        if len(before) and state.chance > 0 and before[0] > self.ill_from_start * state.chance:
            return False
        return len(before) < self.steps or float(np.max(before[-self.steps :])) > self.rose * abs(before[0])

    def _ill(self, record: Record, state: Condition) -> bool:
        """Whether the run is not doing its job; too short a run is judged by what it has shown."""
        if state.verdict in ("diverging", "non-finite", "flat"):
            return True
        whole = rise(record.loss())
        if whole is not None and record.finished and whole.late >= self.near_chance * state.chance > 0:
            return True
        return state.steps >= self.steps and ends_far_above(record, state)

    def _first_jump(self, record: Record, ratios: Grid) -> tuple[str, int, float] | None:
        """A first step that was as long as a weight, after which the loss rose."""
        largest = ratios.largest[:5]
        if not np.any(largest > self.first_jump) and not np.any(np.isinf(largest)):
            return None
        place = int(np.nanargmax(largest))
        curve = record.loss()
        before = curve.value[curve.step <= ratios.step[0]]
        after = curve.value[(curve.step > ratios.step[0]) & (curve.step <= ratios.step[0] + 20)]
        if not len(before) or not len(after) or not np.isfinite(before[0]):
            return None
        top = float(np.max(np.where(np.isfinite(after), after, np.inf)))
        if top <= self.rose * abs(before[0]):
            return None
        return "jump", int(ratios.step[place]), self._of_what_it_was(record, ratios, place)

    def _of_what_it_was(self, record: Record, ratios: Grid, place: int) -> float:
        """The largest step of all weights over what that weight was before; a ratio is of what it was afterwards."""
        row = int(np.nanargmax(ratios.value[:, place]))
        name, ratio = ratios.names[row], float(ratios.value[row, place])
        update, before = record.series("update", name), record.parameters[name].initial.rms
        if ratios.step[place] != 0 or not len(update) or not before > 0:
            return ratio
        return float(update.rms[0]) / before

    def _long_steps(self, ratios: Grid) -> tuple[str, int, float] | None:
        """The first `steps` sampled steps in a row, all of them long."""
        long = ratios.median > self.high
        if len(long) < self.steps:
            return None
        rows = np.convolve(long.astype(int), np.ones(self.steps, int), "valid")
        places = np.flatnonzero(rows == self.steps)
        if not len(places):
            return None
        at = slice(int(places[0]), int(places[0]) + self.steps)
        return "long", int(ratios.step[at.stop - 1]), float(np.median(ratios.median[at]))

    def _violence(self, record: Record, ratios: Grid) -> tuple[str, int, float] | None:
        """First steps that changed all weights by much and threw the loss up, or by so much that this need not show."""
        first = ratios.median[: self.steps]
        loss = record.loss().value[: 3 * self.steps]
        if len(first) < self.steps or len(loss) < 3 * self.steps or not loss[0] > 0:
            return None
        ratio = float(np.median(first[np.isfinite(first)])) if np.isfinite(first).any() else 0.0
        finite = np.where(np.isfinite(loss), loss, np.inf)
        top = float(np.convolve(finite, np.full(5, 0.2), "valid").max())
        if not (ratio > self.very_violent or (ratio > self.violent and top > self.thrown * loss[0])):
            return None
        return "long", int(ratios.step[self.steps - 1]), ratio

    def _thrown_back(self, record: Record, state: Condition, ratios: Grid) -> bool:
        """A run that learns, but with what its first steps left of the network, and far worse than it could."""
        whole = rise(record.loss()) if record.finished and self._violence(record, ratios) is not None else None
        if whole is None:
            return False
        level, loss = state.level_from(float(record.loss().value[0])), training_loss(record)
        evaluated = last_evaluation(record, loss) * training_scale(record) if loss is not None else math.nan
        return whole.late >= self.poor * level or evaluated >= self.poor * level

    def _undivided(self, record: Record, optimizer: Optimizer | None) -> tuple[int, Location | None] | None:
        """(backward calls in a step, place) where their losses were not divided by their number."""
        sites = record.loss_sites()
        if optimizer is None or "SGD" not in optimizer.class_name or len(sites) != 1:
            return None
        used = record.steps["b"]
        counts = [record.patterns[int(id)].count("backward") for id in used[:200] if int(id) in record.patterns]
        calls = int(np.median(counts)) if counts else 0
        scale = loss_scale(record, record.loss())
        if (
            calls < self.accumulated
            or not 0.9 < scale < 1.1
            or not any(loss.training for loss in record.losses.values())
        ):
            return None
        return calls, first_backward(record, sites[0])

    def _factor(self, record: Record, ratios: Grid, found: tuple[str, int, float]) -> int:
        """How many times too high the rate is, as a power of ten.

        A step is never longer than the weights that it makes, so after a few steps the ratio tells no more; the first
        one is compared with the weights as they were.
        """
        _, step, ratio = found
        first = [
            float(update.rms[0]) / before
            for name in ratios.names
            if len(update := record.series("update", name))
            and update.step[0] == 0
            and (before := record.parameters[name].initial.rms) > 0
        ]
        begun = float(np.median(first)) if first else 0.0
        times = max(ratio / (self.high if step else self.violent), begun / self.violent)
        if not math.isfinite(times):
            return self.most_too_high
        power = max(1, round(math.log10(max(times, 1.0))))
        return int(min(10**power, self.most_too_high))

    def _told(
        self,
        record: Record,
        state: Condition,
        optimizer: Optimizer | None,
        found: tuple[str, int, float],
        factor: int,
        severity: Severity,
    ) -> Finding:
        what, step, ratio = found
        lr = record.hyper("lr", optimizer.id if optimizer else None)
        rate = float(lr.at([step])[0]) if len(lr) else float("nan")
        how = (
            "a first step changed a weight matrix by"
            if what == "jump"
            else f"each of {self.steps} steps changed the weights by"
        )
        whose = "its" if what == "jump" else "their"
        job = f"and {_fares(state)}" if severity == "error" else "though the loss falls"
        return self.finding(
            f"the learning rate{f' {rate:.3g}' if rate == rate else ''} is too high: {how} {100 * ratio:.3g} % "
            f"of {whose} own size, {job}; divide it by {factor}, or warm it up",
            severity=severity, step=step,
            location=optimizer.location if optimizer else None,
            evidence={"u": ratio, "lr": rate, "high": self.high, "first_jump": self.first_jump,
                      "verdict": state.verdict},
            fixes=(Fix(f"Divide the learning rate by {factor}", override=f"lr=scale:{1 / factor:g}", safe=True),
                   *self.fixes[1:]),
        )  # fmt: skip

    def _told_undivided(
        self, state: Condition, optimizer: Optimizer | None, step: int, ratio: float, calls: int, where: Location | None
    ) -> Finding:
        return self.finding(
            f"gradients of {calls} backward calls are summed in each step without dividing the loss, so steps are "
            f"{calls} times too long ({100 * ratio:.3g} % of a weight's size) and {_fares(state)}; divide the loss "
            f"by {calls} before backward()",
            severity="error", step=step, location=where or (optimizer.location if optimizer else None),
            evidence={"u": ratio, "calls": calls, "first_jump": self.first_jump, "verdict": state.verdict},
        )  # fmt: skip


def _fares(state: Condition) -> str:
    """How the loss fares, in words."""
    if state.adversarial and state.verdict != "non-finite":
        return "what the network began with is lost"
    if state.verdict == "learning":
        return (
            f"the loss ends {'near that of guessing' if state.end > 0.9 * state.level else 'far above what it could'}"
        )
    said = {"non-finite": "the loss is not finite", "diverging": "the loss rises", "too-short": "the loss rises"}
    return said.get(state.verdict, "the loss is flat")


def _main_optimizer(record: Record, ratios: Grid) -> Optimizer | None:
    """The optimizer that holds the first of the weights, else the first of all."""
    for name in ratios.names:
        parameter = record.parameters.get(name)
        optimizer = record.optimizer_of(parameter) if parameter is not None else None
        if optimizer is not None:
            return optimizer
    return next(iter(record.optimizers.values()), None)
