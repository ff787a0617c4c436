"""UPD507: the learning rate schedule is not stepped as it was planned."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix, Location, Severity
from wellfit.record import Optimizer, Record, Scheduler
from wellfit.record.curves import Floats, Steps
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.source import Source, source_of

_PLANNED = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "LinearLR": "total_iters",
            "PolynomialLR": "total_iters", "ConstantLR": "total_iters"}  # fmt: skip
_AT_ONCE = ("OneCycleLR", "CosineAnnealingLR", "ExponentialLR", "LinearLR", "PolynomialLR", "CyclicLR",
            "CosineAnnealingWarmRestarts")  # fmt: skip

_BEGIN_LOW = ("OneCycleLR", "LinearLR", "CyclicLR")

_Judged = tuple[str, str, Severity | Literal["if poor"]]  # what is wrong, cure, severity


@dataclass(frozen=True)
class Course:
    """The learning rate of an optimizer: the largest over its groups, at each of its steps.

    Args:
        step: int64 (n,).
        rate: float64 (n,).
        changes: how often it changed.
        gap: steps from one change to the next, the median; NaN if it changed less than twice.
    """

    step: Steps
    rate: Floats
    changes: int
    gap: float


class SchedulerOrder(Rule):
    """A scheduler that is stepped too often, too seldom, at the wrong place or never.

    What it checks
    For each scheduler of torch, and the learning rate of its optimizer: (1) the rate is 0 for the first `still` steps
    or more, and for the `still_share` of all; (2) it stands below `spent` of its peak for more than `spent_share` of
    the run, while the loss ends above `unlearned` of its start; (3) a scheduler that was planned for about as many
    steps as the run has was stepped less than `seldom` of them; (4) a cosine was stepped `often` times its T_max, at
    each batch, so that the rate jumps up and down; (5) no line of the program steps it; (6) it was stepped before the
    first step of the optimizer. (1) and (2) are errors; (3), (4), and (5) of a schedule that begins low, where the loss
    ends above `unlearned`; the rest are notes, and (1) is where other optimizers go on meanwhile.

    Why it hurts
    A schedule that is meant in epochs and stepped at each batch is over before anything is learned; one that is meant
    in batches and stepped at each epoch never leaves its warm-up.

    Cure
    Step the scheduler where its numbers are meant: once an epoch for StepLR, ExponentialLR or a T_max in epochs, after
    each `optimizer.step()` for OneCycleLR and warm-ups; never before the optimizer.

    Fix safety
    The schedule comes to be what it was meant to be.

    When it is wrong
    A run that is short on purpose, of a schedule that was planned for a longer one. A cosine used as a cycle. Of
    ReduceLROnPlateau nothing is said: its rate falls because the loss does not.

    References
    PyTorch documentation, "How to adjust learning rate"; Loshchilov and Hutter 2017, "SGDR"; Smith and Topin 2019,
    "Super-convergence".
    """

    code = "UPD507"
    name = "scheduler-order"
    family: ClassVar[Family] = "update"
    summary = "the scheduler is stepped too often, too seldom, or out of order"
    reads = ("scheduler", "lr", "loss")
    consequences = ("lr-low", "plateau", "never-updated", "underfit", "update-lost", "oscillation")
    fixes = (
        Fix("Move the scheduler's step to where its numbers are meant"),
        Fix("Keep the learning rate constant, to see what it does", override="schedule=constant", safe=True),
    )

    still: int = 20  # steps at the start with a rate of exactly 0; a warm-up from 0 has one
    still_share: float = 0.1  # of all steps; so many at least, for it to be told as an error
    spent: float = 0.011  # of the peak of the rate; a cosine is below it for its last 7 % only
    spent_share: float = 0.5  # of the run's steps
    unlearned: float = 0.5  # loss at the end over that of the start, or of chance where it is lower
    seldom: float = 0.2  # steps of the scheduler over those it was planned for
    often: float = 4.0  # steps of a cosine over its T_max: it went down and up twice
    fewest: int = 50  # steps of the optimizer; shorter runs are trials

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
                scheduler.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)
        for _epoch in range(8):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            scheduler.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if not record.schedulers:
            return
        state = condition(record)
        for scheduler in record.schedulers.values():
            optimizer = record.optimizers.get(scheduler.optimizer) if scheduler.optimizer is not None else None
            course = _course(record, optimizer) if optimizer is not None else None
            if optimizer is None or course is None or not len(course.step):
                continue
            source = source_of(scheduler.location.file) if scheduler.location is not None else None
            names = _names(source, scheduler)
            lines = _step_lines(source, names)
            where = Location(scheduler.location.file, lines[0]) if lines and scheduler.location else scheduler.location
            found = self._judged(record, scheduler, optimizer, course, state)
            if found is None and not lines:
                found = self._never(record, scheduler, course, source, names)
            if found is not None:
                what, cure, severity = found
                if severity == "if poor":
                    severity = "error" if fits_poorly(state, self.unlearned) else "note"
                yield self._told(record, scheduler, course, where, what, cure, severity)

    def _judged(
        self, record: Record, scheduler: Scheduler, optimizer: Optimizer, course: Course, state: Condition
    ) -> _Judged | None:
        """(what is wrong, cure, severity) of what the learning rate shows."""
        rate, count = course.rate, len(course.rate)
        moving = np.flatnonzero(rate > 0)
        still = int(moving[0]) if len(moving) else count
        if still >= self.still and (record.finished or still == count) and still >= self.still_share * count:
            return (
                f"the learning rate is 0 for the first {still} of {count} steps, which change nothing",
                "step the scheduler after each step of the optimizer, not once an epoch",
                "error" if len(record.optimizers) == 1 else "note",  # a part may be thawed late on purpose
            )
        if not _whole(record) or count < self.fewest or scheduler.class_name == "ReduceLROnPlateau":
            return None  # a rate that falls because the loss does not is a consequence
        small = float(np.mean(rate < self.spent * rate.max()))
        if small > self.spent_share and fits_poorly(state, self.unlearned):
            at = int(course.step[np.flatnonzero(rate < self.spent * rate.max())[0]])
            return (
                f"the learning rate has fallen to a hundredth of its peak by step {at} of {count}, and the loss "
                f"stays at {state.end:.3g} from then on",
                "step the scheduler once an epoch, or let the rate fall over the whole run", "error",
            )  # fmt: skip
        return self._counted(scheduler, course) or self._before(scheduler, optimizer, course)

    def _counted(self, scheduler: Scheduler, course: Course) -> _Judged | None:
        """What its count of steps tells, against what it was planned for."""
        planned = scheduler.settings.get(_PLANNED.get(scheduler.class_name, ""))
        count = len(course.rate)
        if not isinstance(planned, int) or planned < 1:
            return None
        if count / 2 <= planned <= 2 * count and course.changes < self.seldom * planned and course.gap >= 5:
            return (
                f"{scheduler.class_name} was planned for {planned} steps and stepped {course.changes + 1} times only, "
                f"once every {course.gap:.0f} steps of the optimizer: the rate stays at the beginning of its course",
                "step it after each step of the optimizer", "if poor",
            )  # fmt: skip
        if scheduler.class_name == "CosineAnnealingLR" and course.changes > self.often * planned and course.gap < 2:
            return (
                f"the cosine with T_max = {planned} was stepped {course.changes} times, so the learning rate goes down "
                f"and up again every {2 * planned} steps",
                "step it once an epoch, or give T_max in steps", "if poor",
            )  # fmt: skip
        return None

    def _before(self, scheduler: Scheduler, optimizer: Optimizer, course: Course) -> _Judged | None:
        """The first rate of the schedule is left out: its first step came before the optimizer's."""
        begun = optimizer.groups[0].get("initial_lr") if optimizer.groups else None
        gamma, planned = scheduler.settings.get("gamma"), scheduler.settings.get("T_max")
        lowest = scheduler.settings.get("eta_min", 0.0)
        second = math.nan
        if not isinstance(begun, float) or begun <= 0:
            return None
        if scheduler.class_name == "ExponentialLR" and isinstance(gamma, float):
            second = gamma * begun
        elif scheduler.class_name == "CosineAnnealingLR" and isinstance(planned, int) and planned > 0:
            second = lowest + (begun - lowest) * (1 + math.cos(math.pi / planned)) / 2
        if abs(second - begun) < 1e-9 * begun or not abs(course.rate[0] - second) < 1e-6 * begun:
            return None
        return (
            f"{scheduler.class_name} was stepped before the optimizer's first step: the first rate of the schedule, "
            f"{begun:.3g}, is left out",
            "call scheduler.step() after optimizer.step()", "note",
        )  # fmt: skip

    def _never(
        self, record: Record, scheduler: Scheduler, course: Course, source: Source | None, names: set[str]
    ) -> _Judged | None:
        """Nothing in the file steps it, and it is not handed on to what might."""
        if source is None or not names or scheduler.class_name not in _AT_ONCE or course.changes:
            return None
        if not _whole(record) or len(course.rate) < self.fewest:
            return None
        used = [node for node in source.nodes(ast.Name) if isinstance(node.ctx, ast.Load) and node.id in names]
        if used or any("." in name for name in names):
            return None
        return (
            f"no line steps {scheduler.class_name}: the learning rate stays at {course.rate[-1]:.3g} for all "
            f"{len(course.rate)} steps",
            "call scheduler.step() after optimizer.step(), or once an epoch",
            "if poor" if scheduler.class_name in _BEGIN_LOW else "note",
        )

    def _told(
        self, record: Record, scheduler: Scheduler, course: Course, where: Location | None, what: str, cure: str,
        severity: Severity,
    ) -> Finding:  # fmt: skip
        return self.finding(
            f"{what}; {cure}", severity=severity, step=int(course.step[0]),
            location=where,
            evidence={
                "scheduler": scheduler.class_name, "changes": course.changes, "steps": len(course.rate),
                "first_rate": float(course.rate[0]), "last_rate": float(course.rate[-1]),
            },
            sure=record.finished,
        )  # fmt: skip


def _whole(record: Record) -> bool:
    """Whether a run went to its own end."""
    return record.finished and not record.events("exception") and not record.events("stopped")


def _course(record: Record, optimizer: Optimizer) -> Course:
    """The learning rate of an optimizer over its steps."""
    steps = record.steps
    own = steps["step"][steps["a"] == min(optimizer.id, 255)].astype(np.int64)
    curves = [record.hyper("lr", optimizer.id, group) for group in range(max(1, len(optimizer.groups)))]
    curves = [curve for curve in curves if len(curve)]
    if not curves or not len(own):
        return Course(own[:0], np.empty(0), 0, math.nan)
    rate = np.max([curve.at(own) for curve in curves], axis=0)
    known = np.isfinite(rate)
    own, rate = own[known], rate[known]
    places = np.flatnonzero(np.diff(rate)) + 1
    gap = float(np.median(np.diff(own[places]))) if len(places) > 1 else math.nan
    return Course(own, rate, len(places), gap)


def _names(source: Source | None, scheduler: Scheduler) -> set[str]:
    """The variables that the scheduler is assigned to where it is made."""
    if source is None or scheduler.location is None:
        return set()
    made = source.nodes(ast.Assign, scheduler.location.line)
    return {ast.unparse(target) for node in made for target in node.targets}


def _step_lines(source: Source | None, names: set[str]) -> list[int]:
    """The lines that step a scheduler of one of these names, else any whose name sounds like one."""
    if source is None:
        return []
    calls = [
        (call.lineno, ast.unparse(call.func.value))
        for call in source.calls(["step"])
        if isinstance(call.func, ast.Attribute)
    ]
    return [line for line, name in calls if name in names] or [line for line, name in calls if "sched" in name.lower()]
