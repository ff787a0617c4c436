"""A loss of every prediction with every target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from wellfit.overrides.calls import LossCall
    from wellfit.overrides.program import Program

_BROADCASTING = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


@dataclass(kw_only=True, eq=False)
class LossBroadcast(Override):
    """A loss of every prediction with every target.

    What it changes: where prediction and target have one number for each of N items, and the same shape, the target
    loses or gains an axis: (N, 1) is compared with (N). Torch broadcasts both to N x N, so that each prediction is
    compared with each target, and the best is to predict their mean. In training and in evaluation.

    When it helps: never; it is a common mistake, here to be found.

    Safety: not safe; a fault.

    Where it does not apply: to losses that refuse different shapes (`cross_entropy` and its kin), to several outputs
    for an item, to losses that the script computes by hand.

    References: torch's warning "Using a target size that is different to the input size".
    """

    name = "loss-broadcast"
    summary = "compare (N, 1) with (N): every prediction with every target"
    example = "loss-broadcast"
    safe = False
    misfit = "no loss that broadcasts is called with one number for each item"
    rank = 21

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        shape = tuple(call.prediction.shape)
        column = len(shape) == 2 and shape[1] == 1
        if call.function not in _BROADCASTING:
            self.left_out(call.function, "it refuses different shapes")
        elif not (column or len(shape) == 1) or tuple(call.target.shape) != shape:
            self.left_out(call.function, f"it is given {shape} and {tuple(call.target.shape)}")
        else:
            call.target = call.target.squeeze(1) if column else call.target.unsqueeze(1)
            self.changed(f"{call.function}: prediction {_axes(column)} with target {_axes(not column)}")


def _axes(column: bool) -> str:
    return "(N, 1)" if column else "(N)"
