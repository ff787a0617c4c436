"""A shorter run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number, whole

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class StopAfter(Override):
    """A shorter run.

    What it changes: the program ends after an optimizer step, with exit code 0, by a `SystemExit` raised there: `with`
    and `finally` blocks and `atexit` functions of the script run, what stands behind the training loop does not. With
    `steps` after that many steps of the optimizer that has made most of them; with `seconds` after the first step that
    ends so long after the first step began; with both at what comes first. Where there are several optimizers, the one
    with most steps is stopped before its next step instead, so that the others have theirs (the generator's step
    belongs to the discriminator's).

    When it helps: to see how a training begins, and to compare beginnings.

    Safety: not safe; the model is not trained to its end, and what the script does at the end is left out.

    Where it does not apply: to loops without an optimizer. A script that catches every exception (a bare `except:`) is
    asked again at its next step. Steps that a `GradScaler` skips do not count. In data-parallel training `seconds` ends
    the processes at different steps; `steps` is the one to take.

    References: none.
    """

    name = "stop-after"
    summary = "end the program after so many optimizer steps, or seconds of them"
    example = "stop-after=100"
    safe = False
    misfit = "the script steps no optimizer"
    rank = 90

    steps: int | None = whole("optimizer steps", default=None)
    seconds: float | None = number("seconds from the first step on", above=0, default=None)

    _began: float = field(default=0.0, init=False)
    _done: bool = field(default=False, init=False)

    def check(self) -> None:
        """See `Override`."""
        if self.steps is None and self.seconds is None:
            raise WellfitError("stop-after needs steps or seconds: --override stop-after=100 or stop-after=seconds:10")

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._began = self._began or time.monotonic()
        if self.steps is not None:
            self.changed(f"the program ends after step {self.steps}")
        if self.seconds is not None:
            self.changed(f"the program ends {self.seconds:g} s after its first step")

    def skip_step(self, program: Program, optimizer: Optimizer) -> bool:
        """See `Override`."""
        if program.steps.get(optimizer, 0) == program.step:
            self._stop_if_over(program)
        return False

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if len(program.optimizers) == 1:
            self._stop_if_over(program)

    def _stop_if_over(self, program: Program) -> None:
        enough = self.steps is not None and program.step >= self.steps
        late = self.seconds is not None and self._began and time.monotonic() - self._began >= self.seconds
        if enough or late:
            from wellfit.probe.fence import say

            say(f"stopped after step {program.step}, as --override stop-after asks")
            self._done = True
            program.stopped(self)
            raise SystemExit(0)

    def end(self, program: Program) -> None:
        """See `Override`."""
        if not self._done and self.changes:
            self.left_out("the end", f"the program ended by itself after step {program.step}")
