"""The script's first evaluation, and no training."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import switch
from wellfit.overrides.slim._watching import Watching

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Evaluate(Watching):
    """The script's first evaluation, and no training.

    What it changes: optimizer steps and backward passes are left out (gradients are 0), and what models keep of a call
    in training (batch norm's running statistics) is put back. The program ends, by a `SystemExit` with exit code 0,
    when training would go on after the script's first evaluation: after one or more calls of a model without gradients
    or in evaluation mode. How many samples it had, their mean loss and the share of right answers are told and
    recorded, pass by pass: from loss functions of torch that are given scores and classes, or from a comparison of an
    argmax with whole numbers. With whole:on the program runs to its own end instead.

    When it helps: with start, to see what the script's own evaluation says of weights in a file.

    Safety: not safe; nothing is trained.

    Where it does not apply: to weights that are changed without an optimizer. Batches that come before the first
    evaluation still go through the model. Accuracies that are computed otherwise (numpy, scikit-learn) are not seen.

    References: none.
    """

    name = "evaluate"
    summary = "train nothing, and end the program after its first evaluation"
    example = "evaluate"
    safe = False
    misfit = ""
    rank = 92

    whole: bool = switch("let the program go on to its end, for figures that it prints only there", default=False)

    _kept: weakref.WeakKeyDictionary[Any, list[tuple[Any, Any]]] = field(
        default_factory=weakref.WeakKeyDictionary, init=False
    )
    _roots: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)
    _ended: bool = field(default=False, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        super().begin(program)
        self.is_met = True  # a script that trains nothing is as it was asked for

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        super().before_forward(program, root, call)
        self._roots.add(root)
        if root.training:
            self._kept[root] = [(buffer, buffer.detach().clone()) for buffer in root.buffers()]

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        for buffer, before in self._kept.pop(root, ()):
            buffer.data.copy_(before)

    def skip_backward(self, program: Program, loss: Any) -> bool:
        """See `Override`."""
        import torch

        super().skip_backward(program, loss)
        self._say()
        for parameter in (parameter for root in self._roots for parameter in root.parameters()):
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return True

    def skip_step(self, program: Program, optimizer: Optimizer) -> bool:
        """See `Override`."""
        super().skip_step(program, optimizer)
        self._say()
        return True

    def evaluated(self, program: Program, found: dict[str, Any]) -> None:
        """See `Watching`."""
        if self._ended:
            return
        from wellfit.probe.fence import say

        self._ended = True
        program.keep_record()
        said = ", ".join(f"{key} {found[key]:.5g}" for key in ("loss", "accuracy") if found[key] is not None)
        self.changed(f"evaluated {found['samples']} samples" + f": {said}" * bool(said))
        if not self._evaluations.ending and not self.whole:
            say(f"ended after the first evaluation, as --override evaluate asks: {self.changes[-1]}")
            program.stopped(self)
            raise SystemExit(0)

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if not self._ended:
            from wellfit.probe.fence import say

            program.keep_record()
            self.left_out("the evaluation", "the script evaluated no model")
            say("the script evaluated no model, and --override evaluate leaves training out")

    def _say(self) -> None:
        self.changed("no step is made and no gradient is taken")
