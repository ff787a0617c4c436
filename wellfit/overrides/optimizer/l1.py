"""An L1 penalty on the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.optimizer._gradients import is_weight, parameters_in, with_gradient
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class L1(Override):
    """An L1 penalty on the weights.

    What it changes: before each step of an optimizer `strength` * sign(w) is added to the gradient of every weight w
    with two or more dimensions. That is the gradient of strength * sum |w|; the loss that the script prints stays
    without it. Biases and norm parameters are left out.

    When it helps: against overfitting where few inputs matter: weights that are not needed go to 0.

    Safety: unsafe; another function is minimised.

    Where it does not apply: to optimizers of vectors only, to sparse gradients, and to loops without an optimizer.

    References: Tibshirani, Regression Shrinkage and Selection via the Lasso (1996); Goodfellow, Bengio, Courville, Deep
    Learning (2016), chapter 7.1.2.
    """

    name = "l1"
    summary = "add an L1 penalty on the weights to the gradient"
    example = "l1=0.0001"
    safe = False
    misfit = "the script steps no optimizer of weights with two or more dimensions"
    rank = 30

    strength: float = number("factor on the sum of the absolute weights", above=0)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        weights = [parameter for parameter in parameters_in(optimizer) if is_weight(parameter)]
        sparse = [p for p in weights if p.grad is not None and p.grad.layout is not p.layout]
        name = program.name(optimizer)
        if sparse:
            self.left_out(listed(program.parameter_names(sparse)), "their gradient is sparse")
        count = len(weights) - len(sparse)
        if count:
            self.changed(f"{name}: L1 penalty {self.strength:g} on {count} weight{'s' * (count > 1)}")
        else:
            self.left_out(name, "it has no weights with two or more dimensions and a dense gradient")

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        import torch

        weights = [p for p in with_gradient(optimizer) if is_weight(p) and p.grad.layout is p.layout]
        if weights:
            with torch.no_grad():
                signs = torch._foreach_sign(weights)
                torch._foreach_add_([p.grad for p in weights], signs, alpha=self.strength)
