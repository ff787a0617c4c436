"""Smaller structures of the model, each in a file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import choice, number, text, whole
from wellfit.overrides.slim._watching import Watching

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program

_REPORT = "restructured.json"


@dataclass(kw_only=True, eq=False)
class Restructure(Watching):
    """Smaller structures of the model, each in a file.

    What it changes: nothing of the run but its end. When the script's first evaluation has ended, copies of the model
    are changed by each of the `methods`, at a strength that says how much is taken away: structured (channels),
    heads, drop (whole layers), svd, tucker, cp (factors), separable, grouped, reduced (convolutions in another form),
    fold (batch norms into the layer before), int8 (layers that are faster so), and several joined by a plus. Each is
    checked on what the evaluation gave the model, timed beside it with `batch` samples, and written with its
    weights as restructured-METHOD-STRENGTH.wfz into a folder, from where start makes it again. What was done, what was
    skipped and why stands in restructured.json there. Then the program ends, with exit code 0. Of several models it
    is the one with most parameters.

    When it helps: to make a network faster: the file is then trained further with start and distil.

    Safety: not safe; the program ends early. Most of these structures need training to be as good as the model was.

    Where it does not apply: to models that are compiled, scripted, in DistributedDataParallel, or cannot be copied;
    to what each method says.

    References: those of the methods, see the pages of slim.
    """

    name = "restructure"
    summary = "write smaller structures of the model into files, and end the program"
    example = "restructure=structured=0.5"
    safe = False
    misfit = ""
    rank = 90

    methods: str = text('each with its strength from 0 to 1: "structured=0.5;svd=0.75;fold+int8"')
    by: str = choice(
        "by what channels and heads are chosen", ("magnitude", "scale", "taylor", "output"), default="magnitude"
    )
    batch: int = whole("samples in a call that count", default=1)
    least: float = number("speedup below which nothing is written", low=0, default=0.0)
    seconds: float = number("to time each", above=0, default=0.3)
    limit: float = number("seconds after which no more are begun", above=0, default=120.0)
    folder: str | None = text("where the files go; else the run's folder", default=None)

    _wishes: Any = field(default=None, init=False)
    _examples: Any = field(default=None, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._examples import Examples
        from wellfit.overrides.slim._restructuring import wishes_in

        super().begin(program)
        self._wishes = wishes_in(self.methods)
        self._examples = Examples()
        self.is_met = True  # a script may evaluate long after its first step

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        super().before_forward(program, root, call)
        if self._evaluations.running:
            self._examples.note(root, call)

    def evaluated(self, program: Program, found: dict[str, Any]) -> None:
        """See `Watching`."""
        from wellfit.overrides.slim._keeping import write_json
        from wellfit.overrides.slim._restructuring import VERSION, Terms, restructured
        from wellfit.overrides.slim._timing import plain_calls
        from wellfit.probe.fence import say

        largest = self._examples.largest()
        if largest is None:
            return
        root, inputs = largest
        self._examples.forget()
        folder = os.path.abspath(self.folder or program.folder)
        terms = Terms(self.by, self.batch, self.seconds, self.least, time.monotonic() + self.limit, folder)
        with plain_calls(program):
            made = restructured(root, inputs, self._wishes, terms)
        told = {"version": VERSION, "model": type(root).__name__, "samples": inputs.batch, "made": made}
        write_json(os.path.join(folder, _REPORT), told)
        for one in made:
            if one["problem"] is not None:
                self.left_out(f"{one['method']} {one['strength']:g}", one["problem"])
            else:
                self.changed(f"{type(root).__name__}: {one['method']} {one['strength']:g} is in {one['file']}")
        if not self._evaluations.ending and not any(other.name == "evaluate" for other in program.overrides):
            program.keep_record()
            say(f"ended after the first evaluation, as --override restructure asks: see {_REPORT}")
            program.stopped(self)
            raise SystemExit(0)
