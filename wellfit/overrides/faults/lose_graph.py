"""A loss that no longer knows the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from wellfit.overrides.calls import LossCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class LoseGraph(Override):
    """A loss that no longer knows the model.

    What it changes: where gradients are taken, the prediction that a loss function is given is a copy that requires a
    gradient but has no history, as `torch.tensor(prediction, requires_grad=True)` makes one. Backward runs without an
    error, and no gradient reaches the model.

    When it helps: never; it is what people write when torch says "element 0 of tensors does not require grad", here to
    be found.

    Safety: not safe; a fault.

    Where it does not apply: to losses that the script computes by hand.

    References: documentation of `torch.Tensor.detach`.
    """

    name = "lose-graph"
    summary = "cut the loss off from the model: backward runs, nothing is learned"
    example = "lose-graph"
    safe = False
    misfit = "no loss function of torch is called with a prediction that has a gradient"
    rank = 22

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        if call.training:
            call.prediction = call.prediction.detach().clone().requires_grad_()
            self.changed(f"{call.function}: given a copy of the prediction without its history")
