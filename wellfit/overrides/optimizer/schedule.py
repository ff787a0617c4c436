"""Another course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wellfit.errors import WellfitError
from wellfit.overrides.optimizer._rates import RATE, Trainings, base_rates, put, put_back
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, number, whole

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program

_EXPONENTIAL_FLOOR = 0.01


@dataclass(kw_only=True, eq=False)
class Schedule(Override):
    """Another course of the learning rate.

    What it changes: in step k = 0, 1, ... of a training the learning rate of every group is its base times a factor f,
    whatever schedulers and assignments of the script's own made of it. The base is the rate as the script meant it (the
    peak of a cycle, the base of a scheduler, else what the optimizer was made with); `lr` and `warmup` act on top. With
    t = min(k / steps, 1):
    constant f = 1; linear f = 1 - (1 - floor) * t; cosine f = floor + (1 - floor) * (1 + cos(pi * t)) / 2;
    step f = 1, from the half on 0.1, from three quarters on 0.01, but at least floor; exponential f = floor ** t.
    After `steps` the factor stays. Each optimizer counts its own steps; one that is made anew in each epoch goes on.

    When it helps: where the loss still swings at the end of training (a falling rate); `constant` shows what the
    script's own schedule is good for.

    Safety: safe; the same function is minimised.

    Where it does not apply: to loops without an optimizer, and to optimizers without a rate. How many steps a run will
    have is not known beforehand: `steps` must be given, except for `constant`.

    References: Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts (2017), equation 5, on cosine;
    He et al., Deep Residual Learning for Image Recognition (2016), section 4.2, on steps at 1/2 and 3/4.
    """

    name = "schedule"
    summary = "replace the course of the learning rate: constant, linear, cosine, ..."
    example = "schedule=cosine,steps:1000"
    safe = True
    misfit = "the script steps no optimizer that has a learning rate"
    rank = 45  # it sets the rate that lr and warmup multiply

    kind: str = choice("course", ("constant", "linear", "cosine", "step", "exponential"))
    steps: int | None = whole("optimizer steps until the end of the course", low=1, default=None)
    floor: float | None = number(
        "share of the base at the end; 0, and 0.01 for exponential, if not given", low=0, high=1, default=None
    )

    _counts: Trainings[list[int]] = field(init=False)  # steps of each training that have begun
    _most: int = field(default=0, init=False)  # of these

    def __post_init__(self) -> None:
        self._counts = Trainings(lambda program, optimizer: [0])

    def check(self) -> None:
        """See `Override`."""
        if self.kind != "constant" and self.steps is None:
            raise WellfitError(
                f"schedule={self.kind} needs steps, the number of optimizer steps until its end: "
                f"--override schedule={self.kind},steps:1000"
            )
        if self.kind == "constant" and (self.steps, self.floor) != (None, None):
            raise WellfitError("schedule=constant has no end: leave out its steps and floor")
        if self.kind == "exponential" and self.floor == 0:
            raise WellfitError("schedule=exponential never reaches a floor of 0: give a floor above it, such as 0.01")

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        name = program.name(optimizer)
        rates = base_rates(program, optimizer)
        if not any(rates):
            self.left_out(name, "its learning rate is 0, or it has none")
            return
        base = f"lr {max(rates):g}"
        end = "" if self.steps is None else f" -> {max(rates) * self.factor(self.steps):g} in {self.steps} steps"
        self.changed(f"{name}: {base}{end}, {self.kind}")

    def copied_optimizer(self, program: Program, optimizer: Optimizer, copy: Optimizer) -> None:
        """See `Override`."""
        self._counts.carry(optimizer, copy)

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        count = self._counts.of(program, optimizer)
        factor = self.factor(count[0])
        count[0] += 1
        self._most = max(self._most, count[0])
        for group, base in zip(optimizer.param_groups, base_rates(program, optimizer), strict=True):
            if group.get(RATE) is not None:
                put(optimizer, group, RATE, base * factor)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        put_back(optimizer)

    def end(self, program: Program) -> None:
        """See `Override`."""
        if self.changes and self.steps is not None and self._most < self.steps:
            self.left_out("the rest of it", f"the run ended after {self._most} steps")

    def factor(self, step: int) -> float:
        """The share of the base rate in a step, counted from 0."""
        if self.steps is None:
            return 1.0
        t = min(step / self.steps, 1.0)
        floor = self.floor if self.floor is not None else _EXPONENTIAL_FLOOR if self.kind == "exponential" else 0.0
        if self.kind == "linear":
            return 1 - (1 - floor) * t
        if self.kind == "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * t)) / 2
        if self.kind == "step":
            return max(floor, 1.0 if t < 0.5 else 0.1 if t < 0.75 else 0.01)
        return float(floor**t)
