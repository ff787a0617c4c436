"""Targets of another size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number

if TYPE_CHECKING:
    from wellfit.overrides.calls import LossCall
    from wellfit.overrides.program import Program

_REGRESSION = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss", "poisson_nll_loss")


@dataclass(kw_only=True, eq=False)
class ScaleTarget(Override):
    """Targets of another size.

    What it changes: the target y of the losses of regression becomes factor * y + offset, in training and in
    evaluation. Where only the second argument of a loss takes a gradient, the first is the target.

    When it helps: to make a program whose targets were not scaled (prices in cents, say): the last layer starts far
    from them, and squared errors of that size give gradients of that size.

    Safety: not safe; a fault.

    Where it does not apply: to classes, to losses that the script computes by hand.

    References: Bishop, Neural Networks for Pattern Recognition (1995), section 8.2.
    """

    name = "scale-target"
    summary = "multiply the targets of a regression: data that nobody has scaled"
    example = "scale-target=1000"
    safe = False
    misfit = "no loss of a regression is called with targets that are real numbers"
    rank = 20

    factor: float = number("factor on the target")
    offset: float = number("added to it after that", default=0.0)

    # By function whether the target is its second argument, as it should be.
    _second: dict[str, bool] = field(default_factory=dict, init=False)

    def check(self) -> None:
        """See `Override`."""
        if self.factor == 1 and self.offset == 0:
            raise WellfitError("scale-target with factor 1 and offset 0 changes nothing")

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        if call.function not in _REGRESSION or not call.target.is_floating_point():
            self.left_out(call.function, "its target are no real numbers of any size")
            return
        predicts, targets = call.prediction.requires_grad, call.target.requires_grad
        if predicts or targets:
            self._second[call.function] = predicts
        second = self._second.get(call.function, True)  # where no gradient is taken, as where one was
        if second:
            call.target = call.target * self.factor + self.offset
        else:
            call.prediction = call.prediction * self.factor + self.offset
        self.changed(
            f"{call.function}: target{' (the first argument)' * (not second)} times {self.factor:g}"
            + f", plus {self.offset:g}" * (self.offset != 0)
        )
