"""Another learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wellfit.errors import WellfitError
from wellfit.overrides.optimizer._rates import Trainings, base_rates, multiply_rates, put_back
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class LearningRate(Override):
    """Another learning rate.

    What it changes: at each step the learning rate of every parameter group is multiplied by one factor, and put back
    after the step. With a value the factor is value / base, where base is the largest rate among the optimizer's groups
    as the script meant it (`max_lr` of a cycle, the base of a schedule, else the rate it was made with). So a schedule
    keeps its shape and groups keep their ratios. With `scale` the factor is given. An optimizer that is made anew in
    each epoch keeps its first factor. What the script reads from the groups is its own rate.

    When it helps: where wellfit finds lr-high, lr-low, diverged or an update ratio far from 1e-3.

    Safety: safe; the program means the same.

    Where it does not apply: to loops that change weights without an optimizer, and to optimizers whose rate is 0 or
    that have none.

    References: Goodfellow, Bengio, Courville, Deep Learning (2016), chapter 11.4.1: "the learning rate is perhaps the
    most important hyperparameter".
    """

    name = "lr"
    summary = "set or scale the learning rate; schedules keep their shape"
    example = "lr=0.01"
    safe = True
    misfit = "the script steps no optimizer"
    rank = 50

    value: float | None = number("learning rate, per step", above=0, default=None)
    scale: float | None = number("factor on the script's own rate", above=0, default=None)

    _factors: Trainings[float | None] = field(init=False)

    def __post_init__(self) -> None:
        self._factors = Trainings(self._factor)

    def check(self) -> None:
        """See `Override`."""
        if (self.value is None) == (self.scale is None):
            raise WellfitError(
                "lr needs a value or a scale, and not both: --override lr=0.01 or --override lr=scale:0.1"
            )

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._factors.of(program, optimizer)

    def _factor(self, program: Program, optimizer: Optimizer) -> float | None:
        base = max(base_rates(program, optimizer), default=0.0)
        if base == 0:
            self.left_out(program.name(optimizer), "its learning rate is 0, or it has none")
            return None
        factor = self.scale if self.scale is not None else (self.value or 0.0) / base
        self.changed(f"{program.name(optimizer)}: lr {base:g} -> {base * factor:g}")
        return factor

    def copied_optimizer(self, program: Program, optimizer: Optimizer, copy: Optimizer) -> None:
        """See `Override`."""
        self._factors.carry(optimizer, copy)

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        factor = self._factors.of(program, optimizer)
        if factor is not None:
            multiply_rates(optimizer, factor)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        put_back(optimizer)
