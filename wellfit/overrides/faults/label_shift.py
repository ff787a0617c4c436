"""Labels off by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.override import Override
from wellfit.overrides.parameters import whole

if TYPE_CHECKING:
    from wellfit.overrides.calls import LossCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class LabelShift(Override):
    """Labels off by one.

    What it changes: where gradients are taken, the class number t that `cross_entropy` or `nll_loss` is given becomes
    (t + by) modulo the number of classes. Labels to be ignored (`ignore_index`) stay; so do those of evaluation.

    When it helps: to make a program whose training labels were numbered otherwise than its test labels: the training
    loss falls, the test accuracy is that of always being wrong.

    Safety: not safe; a fault.

    Where it does not apply: to targets that are no class numbers, to losses that the script computes by hand.

    References: Northcutt et al., Pervasive Label Errors in Test Sets (2021).
    """

    name = "label-shift"
    summary = "training labels off by one"
    example = "label-shift"
    safe = False
    misfit = "neither cross_entropy nor nll_loss is called with class numbers in training"
    rank = 20

    by: int = whole("added to each label", default=1)

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        import torch

        if not call.training:
            return
        if call.function not in ("cross_entropy", "nll_loss") or call.target.is_floating_point():
            self.left_out(call.function, "its target are no class numbers")
            return
        classes = call.prediction.shape[0 if call.prediction.dim() == 1 else 1]
        ignored = call.target == call.options.get("ignore_index", -100)
        call.target = torch.where(ignored, call.target, (call.target + self.by) % classes)
        self.changed(f"{call.function}: labels plus {self.by} modulo {classes}")
