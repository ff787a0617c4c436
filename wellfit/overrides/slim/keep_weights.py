"""The model's weights in a file, at the end of the run."""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import text
from wellfit.overrides.slim._watching import Watching

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program

_NAME = "weights.safetensors"
_SHARE = 0.05  # of the time that may go into writing before the run has ended


@dataclass(kw_only=True, eq=False)
class KeepWeights(Watching):
    """The model's weights in a file, at the end of the run.

    What it changes: nothing of the run. After each evaluation, where writing takes less than a twentieth of the time,
    and at the end of the run the parameters and buffers of the model that is trained are written into a file of
    safetensors, and what is known of them into a .json beside it: types, shapes, layers, what is pruned, shared or
    binary, which names are one tensor, and what each evaluation said (steps before it, samples, loss, accuracy). Where
    several models are trained it is the one with most parameters, and of those the last.

    When it helps: to have the last weights of a script that saves none, or saves them who knows where.

    Safety: safe; the program means the same. The model stays in memory until the program ends.

    Where it does not apply: to types that safetensors do not have; to a process that is killed, of which the weights
    after the last evaluation are there.

    References: none.
    """

    name = "keep-weights"
    summary = "write the model's last weights into a file"
    example = "keep-weights"
    safe = True
    misfit = "no model is called"
    rank = 97

    file: str | None = text("path of the file; else weights.safetensors in the run's folder", default=None)

    _path: str = field(default="", init=False)
    _root: Any = field(default=None, init=False)
    _trained: int = field(default=-1, init=False)  # parameters of it that an optimizer holds
    _called: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)
    _began: float = field(default=0.0, init=False)
    _spent: float = field(default=0.0, init=False)  # on writing

    def begin(self, program: Program) -> None:
        """See `Override`."""
        super().begin(program)
        self._path = os.path.abspath(self.file) if self.file is not None else os.path.join(program.folder, _NAME)
        self._began = time.monotonic()

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        super().before_forward(program, root, call)
        if root not in self._called:
            self._called.add(root)
            self._consider(program, root)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        for root in list(self._called):
            self._consider(program, root)

    def evaluated(self, program: Program, found: dict[str, Any]) -> None:
        """See `Watching`."""
        now = time.monotonic()
        if self._root is not None and self._spent <= _SHARE * (now - self._began):
            self._write(program)
            self._spent += time.monotonic() - now

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if self._root is not None:
            self._write(program)

    def _consider(self, program: Program, root: nn.Module) -> None:
        from wellfit.overrides.optimizer._gradients import parameters_in

        held = {id(parameter) for optimizer in program.optimizers for parameter in parameters_in(optimizer)}
        own = [parameter.numel() for parameter in root.parameters() if not held or id(parameter) in held]
        if own and root is not self._root and sum(own) >= self._trained:
            self._root, self._trained = root, sum(own) if held else 0
            self.changes.clear()
            self.changed(f"{type(root).__name__}: its weights are kept in {os.path.basename(self._path)}")

    def _write(self, program: Program) -> None:
        from wellfit.overrides.slim._keeping import keep

        with program.unseen():
            for name, why in keep(program, self._root, self._path, self._evaluations.found):
                self.left_out(name, why)
