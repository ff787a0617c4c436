"""A learning rate that begins low."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wellfit.overrides.optimizer._rates import Trainings, multiply_rates, put_back
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number, whole

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Warmup(Override):
    """A learning rate that begins low.

    What it changes: in step k = 0, 1, ... of a training the learning rate of every group is multiplied by
    start + (1 - start) * k / steps, until the factor is 1. It acts on top of the script's own schedule and of the
    overrides `lr` and `schedule`. Each optimizer counts its own steps; one that is made anew in each epoch goes on.

    When it helps: where the first steps do harm: a loss that jumps at the start, large batches, Transformers, Adam
    while its averages hold few gradients.

    Safety: safe; after the first steps the program runs as it did.

    Where it does not apply: to loops that change weights without an optimizer, and to optimizers without a rate.

    References: Goyal et al., Accurate, Large Minibatch SGD (2017), section 2.2; Vaswani et al., Attention Is All You
    Need (2017), section 5.3.
    """

    name = "warmup"
    summary = "raise the learning rate from a small share over the first steps"
    example = "warmup=100,start:0.1"
    safe = True
    misfit = "the script steps no optimizer that has a learning rate"
    rank = 50

    steps: int = whole("optimizer steps until the full rate is reached", low=1)
    start: float = number("share of the rate in the first step", low=0, high=1, default=0.01)

    _counts: Trainings[list[int]] = field(init=False)  # steps of each training that have begun
    _most: int = field(default=0, init=False)  # of these

    def __post_init__(self) -> None:
        self._counts = Trainings(lambda program, optimizer: [0])

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if any(group.get("lr") is None for group in optimizer.param_groups):
            self.left_out(program.name(optimizer), "it has no learning rate")
        else:
            self.changed(
                f"{program.name(optimizer)}: lr from {100 * self.start:g} % to 100 % over the first {self.steps} steps"
            )

    def copied_optimizer(self, program: Program, optimizer: Optimizer, copy: Optimizer) -> None:
        """See `Override`."""
        self._counts.carry(optimizer, copy)

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        count = self._counts.of(program, optimizer)
        step, count[0] = count[0], count[0] + 1
        self._most = max(self._most, count[0])
        if step < self.steps and all(group.get("lr") is not None for group in optimizer.param_groups):
            multiply_rates(optimizer, self.start + (1 - self.start) * step / self.steps)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        put_back(optimizer)

    def end(self, program: Program) -> None:
        """See `Override`."""
        if self.changes and self._most < self.steps:
            self.left_out("the rest of it", f"the run ended after {self._most} steps")
