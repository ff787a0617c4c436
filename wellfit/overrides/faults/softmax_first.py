"""A softmax where the loss has one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from wellfit.overrides.calls import LossCall
    from wellfit.overrides.program import Program

_SIGMOID = ("binary_cross_entropy_with_logits", "multilabel_soft_margin_loss", "soft_margin_loss")


@dataclass(kw_only=True, eq=False)
class SoftmaxFirst(Override):
    """A softmax where the loss has one of its own.

    What it changes: what is given to `cross_entropy` goes through a softmax over the classes before, what is given to
    `binary_cross_entropy_with_logits` (and the soft margin losses) through a sigmoid, in training and in evaluation.

    When it helps: never; it is a common mistake, here to be found. The loss of C classes cannot fall below
    ln(1 + (C - 1) / e), and gradients are small.

    Safety: not safe; a fault.

    Where it does not apply: to scripts with other losses, or that compute them by hand.

    References: documentation of `torch.nn.CrossEntropyLoss`: "the input is expected to contain unnormalized logits".
    """

    name = "softmax-first"
    summary = "a softmax (or sigmoid) before the loss that has one of its own"
    example = "softmax-first"
    safe = False
    misfit = "neither cross_entropy nor a loss of torch with a sigmoid of its own is called"
    rank = 20

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        if call.function == "cross_entropy":
            call.prediction = call.prediction.softmax(0 if call.prediction.dim() == 1 else 1)
            self.changed(f"{call.function}: given the softmax of the prediction")
        elif call.function in _SIGMOID:
            call.prediction = call.prediction.sigmoid()
            self.changed(f"{call.function}: given the sigmoid of the prediction")
        else:
            self.left_out(call.function, "it has no softmax and no sigmoid of its own")
