"""An optimizer without memory."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ReinitOptimizer(Override):
    """An optimizer without memory.

    What it changes: before each step the optimizer's state (momentum, second moments, count of steps) is thrown away,
    as if the script made the optimizer anew in its loop. Momentum never builds up, and Adam always makes its first
    step: each weight moves by lr in the direction of the sign of its gradient.

    When it helps: never; it is a common mistake, here to be found.

    Safety: not safe; a fault.

    Where it does not apply: to optimizers that keep nothing, as plain SGD without momentum.

    References: Kingma and Ba, Adam (2015), section 3, on bias correction.
    """

    name = "reinit-optimizer"
    summary = "throw the optimizer's state away at each step, as if it were made anew"
    example = "reinit-optimizer"
    safe = False
    misfit = "no optimizer keeps a state from step to step"
    rank = 20

    _forgetful: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        groups = optimizer.param_groups
        if type(optimizer).__name__ == "SGD" and not any(group.get("momentum") for group in groups):
            self.left_out(program.name(optimizer), "without momentum it keeps nothing")
            return
        self._forgetful.add(optimizer)
        self.changed(f"{program.name(optimizer)}: its state is thrown away before each step")

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if optimizer in self._forgetful:
            optimizer.state.clear()
