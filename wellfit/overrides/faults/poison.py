"""One number that is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.inputs import first_input, is_taught, put_input
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, whole
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Poison(Override):
    """One number that is none.

    What it changes: in one step of the training a number that is not finite is put in one place: `input`, the first
    element of what a model is given; `loss`, added to the prediction that a loss function is given; `gradient`, the
    first element of a gradient before the step; `weight`, the first element of a parameter before the step (both of the
    first parameter of the optimizer that has a gradient).

    When it helps: never; here to be found.

    Safety: not safe; a fault.

    Where it does not apply: `input` to whole numbers, `loss` to losses that the script computes by hand, `gradient` and
    `weight` to loops without an optimizer.

    References: Goldberg, What Every Computer Scientist Should Know About Floating-Point Arithmetic (1991).
    """

    name = "poison"
    summary = "put a NaN or an infinity into input, loss, gradient or weight at one step"
    example = "poison=loss,step:10"
    safe = False
    misfit = "there is no such place in this script"
    rank = 25

    where: str = choice("the place", ("input", "loss", "gradient", "weight"))
    step: int = whole("the step, counted from 1", default=10)
    what: str = choice("the number", ("nan", "inf"), default="nan")

    _done: bool = field(default=False, init=False)

    @property
    def _value(self) -> float:
        return math.nan if self.what == "nan" else math.inf

    def _is_due(self, program: Program, begun: int) -> bool:
        """Whether this is the step; `begun` of it is 1 where the step itself has begun."""
        if self._done or program.step - begun < self.step - 1:
            return False
        self._done = True
        return True

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._done or self.where != "input" or not is_taught(root):
            return
        given = first_input(call)
        if given is None or given.tensor.requires_grad or not given.tensor.is_floating_point():
            return
        self.changed(f"input of {type(root).__name__}{here_text()}: {self.what} at step {self.step}")
        if self._is_due(program, 0):
            tensor = given.tensor.clone()
            tensor[(0,) * tensor.dim()] = self._value
            put_input(call, given, tensor)

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        if self._done or self.where != "loss" or not call.training:
            return
        self.changed(f"{call.function}: {self.what} at step {self.step}")
        if self._is_due(program, 0):
            call.prediction = call.prediction + self._value

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self.where in ("gradient", "weight"):
            self.changed(f"{program.name(optimizer)}: {self.what} in a {self.where} at step {self.step}")

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self.where == "gradient":
            self._into(program, optimizer)

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self.where == "weight":
            self._into(program, optimizer)

    def _into(self, program: Program, optimizer: Any) -> None:
        import torch

        if self._done or program.step < self.step:
            return
        held = (parameter for group in optimizer.param_groups for parameter in group["params"])
        parameter = next((one for one in held if one.grad is not None), None)
        if parameter is not None and self._is_due(program, 1):
            with torch.no_grad():
                tensor = parameter.grad if self.where == "gradient" else parameter
                tensor[(0,) * tensor.dim()] = self._value

    def end(self, program: Program) -> None:
        """See `Override`."""
        if not self._done:
            self.left_out("the run", f"it ended before step {self.step}")
