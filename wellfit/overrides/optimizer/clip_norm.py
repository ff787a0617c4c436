"""A bound on the norm of the gradient."""

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
class ClipNorm(Override):
    """A bound on the norm of the gradient.

    What it changes: before each step of an optimizer the gradient of all its parameters together, taken as one vector
    g, is scaled to g * max_norm / max(|g|, max_norm), with the Euclidean norm. A gradient that is not finite is left as
    it is, so that it is seen.

    When it helps: where wellfit finds exploding gradients, spikes of the loss, or NaN after a spike; in recurrent
    networks on long sequences always.

    Safety: safe; the direction of a step stays, only long ones become shorter.

    Where it does not apply: to loops that change weights without an optimizer. A clipping of the script's own stays,
    and acts first.

    References: Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks (2013), algorithm 1.
    """

    name = "clip-norm"
    summary = "bound the norm of the gradient before each step"
    example = "clip-norm=1.0"
    safe = True
    misfit = "the script steps no optimizer"
    rank = 40

    max_norm: float = number("largest norm of the gradient over an optimizer's parameters", above=0)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self.changed(f"{program.name(optimizer)}: the norm of its gradient is at most {self.max_norm:g}")

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        import torch

        with torch.no_grad():
            parts = parts_of_gradient(optimizer)
            norm = torch.nn.utils.get_total_norm(parts)
            if bool(torch.isfinite(norm)):
                factor = (self.max_norm / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_ does it
                for device in {part.device for part in parts}:
                    torch._foreach_mul_([part for part in parts if part.device == device], factor.to(device))
