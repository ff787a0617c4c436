"""A bound on each number of the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.optimizer._gradients import parts_of_gradient
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ClipValue(Override):
    """A bound on each number of the gradient.

    What it changes: before each step of an optimizer every number g of the gradient becomes
    min(max(g, -max_value), max_value). NaN stays NaN; an infinite number becomes the bound.

    When it helps: where single numbers of the gradient are far larger than the others, as in recurrent networks with
    rare long-range errors. For a gradient that is too long as a whole `clip-norm` keeps its direction.

    Safety: safe, but the direction of the steps that it shortens changes.

    Where it does not apply: to loops that change weights without an optimizer. A clipping of the script's own stays,
    and acts first; `clip-norm` acts after it.

    References: Graves, Generating Sequences With Recurrent Neural Networks (2013), section 2.1; Mikolov, Statistical
    Language Models Based on Neural Networks (2012), section 3.2.2.
    """

    name = "clip-value"
    summary = "bound each number of the gradient before each step"
    example = "clip-value=0.5"
    safe = True
    misfit = "the script steps no optimizer"
    rank = 35

    max_value: float = number("largest absolute value of a number of the gradient", above=0)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self.changed(
            f"{program.name(optimizer)}: the numbers of its gradient are at most {self.max_value:g} in absolute value"
        )

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        import torch

        # By hand: another override may have emptied torch's function.
        with torch.no_grad():
            for part in parts_of_gradient(optimizer):
                part.clamp_(-self.max_value, self.max_value)
