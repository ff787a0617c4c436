"""One step for several micro-batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.optimizer._gradients import parameters_in, with_gradient
from wellfit.overrides.optimizer._rates import Trainings
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import whole

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


class _Pending:
    """The gradients of the steps that were left out.

    Attributes:
        count: how many.
        sums: their sum for each parameter.
    """

    def __init__(self) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self.count = 0
        self.sums: Any = WeakIdKeyDictionary()


@dataclass(kw_only=True, eq=False)
class Accumulate(Override):
    """One step for several micro-batches.

    What it changes: of each `steps` steps of an optimizer only the last is made, with the mean of the gradients that
    all of them would have used: g = (g_1 + ... + g_N) / N. So a batch is N times as large, in the memory of one, at the
    price of one more copy of the gradients. Whatever the script does to a gradient before a step (clearing, clipping,
    unscaling) it does for each micro-batch. One that a `GradScaler` finds infinite does not count. The script's
    schedulers still count its own steps.

    When it helps: where the loss is noisy because batches are small, and a larger one does not fit into memory. With N
    times fewer steps the learning rate may be raised.

    Safety: unsafe: the loss is the same, but there are N times fewer steps; BatchNorm still sees micro-batches. What
    is left over at the end of an epoch goes on in the next one, also with an optimizer that is made anew there; at the
    end of the run it is not used.

    Where it does not apply: to optimizers that are given a closure, and to loops without an optimizer.

    References: Ott et al., Scaling Neural Machine Translation (2018), section 3.
    """

    name = "accumulate"
    summary = "make one step of several: the mean of their gradients"
    example = "accumulate=4"
    safe = False
    misfit = "the script steps no optimizer"
    rank = 10
    conflicts = ("zero-grad",)

    steps: int = whole("steps of the script that become one", low=2)

    _pending: Trainings[_Pending] = field(init=False)
    _steps: int = field(default=0, init=False)  # that were made

    def __post_init__(self) -> None:
        self._pending = Trainings(lambda program, optimizer: _Pending())

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        def out_of_sight(original: Callable[..., Any]) -> Callable[..., Any]:
            plain = inspect.unwrap(original)

            def zero_grad(holder: Any, *args: Any, **kwargs: Any) -> Any:
                # Between two steps the probe would see gradients that are thrown away.
                made = [holder] if holder in program.optimizers else program.optimizers
                pending = any((known := self._pending.known(program, each)) and known.count for each in made)
                return (plain if pending else original)(holder, *args, **kwargs)

            return zero_grad

        program.patch(torch.optim.Optimizer, "zero_grad", out_of_sight)
        program.patch(torch.nn.Module, "zero_grad", out_of_sight)

    def skip_step(self, program: Program, optimizer: Optimizer) -> bool:
        """See `Override`."""
        if program.closure:
            raise WellfitError(
                f"{program.name(optimizer)} is given a closure, which computes one gradient after another"
            )
        self.changed(f"{program.name(optimizer)}: one step for {self.steps} of the script's")
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler leaves it to a fused optimizer to divide by it
        pending = self._pending.of(program, optimizer)
        if pending.count + 1 == self.steps:
            return False
        for parameter in with_gradient(optimizer):
            known, own = pending.sums.get(parameter), parameter.grad.detach()
            if scale is not None:
                own = own.div(scale.to(own.device))
            pending.sums[parameter] = own.clone() if known is None else known.add_(own)
        pending.count += 1
        return True

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._steps += 1
        pending = self._pending.of(program, optimizer)
        sums, pending.sums = pending.sums, _Pending().sums
        pending.count = 0
        for parameter in parameters_in(optimizer):
            summed = sums.get(parameter)
            if summed is not None:
                parameter.grad = summed if parameter.grad is None else parameter.grad.add_(summed)
        for parameter in with_gradient(optimizer):
            parameter.grad.div_(self.steps)

    def end(self, program: Program) -> None:
        """See `Override`."""
        if self.changes and not self._steps:
            self.left_out("every step", f"the run ended before the script had made {self.steps}")
