"""Clearing of gradients: put in where it is missing, or done wrong on purpose."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.optimizer._gradients import parameters_in
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ZeroGrad(Override):
    """Clearing of gradients: put in where it is missing, or done wrong on purpose.

    What it changes: `insert` clears the gradients of an optimizer before the first backward pass after its step, where
    the script has not called `zero_grad` of it or of its model by then; once that was missing, also after the steps of
    other optimizers, whose backward passes may have reached the same parameters (a GAN's). `skip` makes every
    `zero_grad` of the script's, of optimizers and of modules, do nothing. `before-step` clears the gradients between
    the backward pass and the step, so that steps have nothing to use.

    When it helps: `insert` where wellfit finds stale-grad. The other two never: they are faults on purpose, and show
    what stale-grad and extra-zero look like.

    Safety: unsafe: the steps become others. `insert` leaves a script alone that clears its gradients itself.

    Where it does not apply: to loops without an optimizer. Gradients that the script clears by hand are not counted as
    cleared, and clearing them again changes nothing.

    References: PyTorch documentation, torch.optim.Optimizer.zero_grad.
    """

    name = "zero-grad"
    summary = "clear gradients where the script forgot it; or leave it out, or do it too late"
    example = "zero-grad=insert"
    safe = False
    misfit = "the script steps no optimizer"
    rank = 20
    conflicts = ("accumulate",)

    mode: str = choice("what is done about clearing", ("insert", "skip", "before-step"))

    _used: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)  # stepped, not cleared since
    _forgotten: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)  # it was missing once
    _tidy: set[str] = field(default_factory=set, init=False)  # the script cleared these itself
    _skipped: bool = field(default=False, init=False)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        how = {
            "insert": "gradients are cleared after each step, where the script does not do it",
            "skip": "gradients are never cleared",
            "before-step": "gradients are cleared before each step",
        }[self.mode]
        self.changed(f"{program.name(optimizer)}: {how}")

    def skip_zero_grad(self, program: Program, holder: Any) -> bool:
        """See `Override`."""
        if self.mode == "insert":
            for optimizer in [made for made in self._used if _clears(holder, made)]:
                self._used.discard(optimizer)
                self._tidy.add(program.name(optimizer))
        self._skipped = True
        return self.mode == "skip"

    def before_backward(self, program: Program, loss: Any) -> None:
        """See `Override`."""
        if self.mode == "insert" and self._used:
            missing = list(self._used)
            self._forgotten.update(missing)
            self._used.clear()
            for optimizer in missing:
                optimizer.zero_grad()

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self.mode == "before-step":
            optimizer.zero_grad()

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self.mode == "insert":
            self._used.add(optimizer)
            self._used.update(self._forgotten)

    def end(self, program: Program) -> None:
        """See `Override`."""
        if self.mode == "skip" and not self._skipped:
            self.left_out("the script's zero_grad", "it never calls one")
        for name in sorted(self._tidy - {program.name(optimizer) for optimizer in self._forgotten}):
            self.left_out(name, "the script clears its gradients itself")


def _clears(holder: Any, optimizer: Any) -> bool:
    """Whether `zero_grad` of an optimizer or a module clears every gradient of an optimizer."""
    if holder is optimizer:
        return True
    held = {
        id(parameter)
        for parameter in (parameters_in(holder) if hasattr(holder, "param_groups") else holder.parameters())
    }
    return all(id(parameter) in held for parameter in parameters_in(optimizer))
