"""How long calls of the model take, as the script made it and with the structure of a file."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.parameters import number, text, whole
from wellfit.overrides.slim._watching import Watching

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class TimeModel(Watching):
    """How long calls of the model take, as the script made it and with the structure of a file.

    What it changes: nothing. When a model is called for the first time a copy of it is kept, before other overrides
    change it. When the script's first evaluation has ended, the copy and the model as it is then are called in turn
    with what the evaluation gave it, with 1, 32 and `batch` samples (the first ones, or all of them over and over),
    in evaluation mode, without gradients, and without what wellfit puts around calls. The medians, and those of each
    layer, are written as JSON. Of several models it is the one with most parameters.

    When it helps: with start, to see what a smaller structure is worth in milliseconds on this machine.

    Safety: safe; the program means the same. It takes some seconds, and memory for one more model.

    Where it does not apply: to models that cannot be copied. Samples are taken to lie along the first axis; a model
    that does not work with another number of samples is timed with the evaluation's own.

    References: none.
    """

    name = "time-model"
    summary = "time the model against itself as the script made it"
    example = "time-model=times.json"
    safe = True
    misfit = ""
    rank = 3
    looks = True

    file: str = text("path of the file that is written")
    batch: int = whole("samples in a call, beside 1 and 32; those by which layers are timed", default=1)
    seconds: float = number("for each number of samples", above=0, default=1.0)

    _before: weakref.WeakKeyDictionary[Any, Any] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _examples: Any = field(default=None, init=False)
    _done: bool = field(default=False, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._examples import Examples

        super().begin(program)
        self._examples = Examples()
        self.is_met = True  # a script may evaluate long after its first step

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import own_copy
        from wellfit.overrides.words import in_short

        try:
            with program.unseen():
                self._before[root] = own_copy(root)
        except Exception as error:
            self.left_out(type(root).__name__, f"it cannot be copied ({in_short(error)})")

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        super().before_forward(program, root, call)
        if not self._done and self._evaluations.running:
            self._examples.note(root, call)

    def evaluated(self, program: Program, found: dict[str, Any]) -> None:
        """See `Watching`."""
        from wellfit.overrides.slim._keeping import write_json
        from wellfit.overrides.slim._timing import ALWAYS, layer_times, plain_calls, timed

        largest = None if self._done else self._examples.largest()
        if largest is None:
            return
        self._done = True
        root, inputs = largest
        before = self._before.get(root)
        self._examples.forget()
        if before is None:
            return
        batches = list(dict.fromkeys((*ALWAYS, self.batch)))
        try:
            with plain_calls(program):
                times = timed(before, root, inputs, batches, self.seconds)
                layers = [layer_times(each, inputs, self.batch, self.seconds / 2) for each in (before, root)]
        except WellfitError as error:  # after the first step nobody would hear of it
            self.left_out(type(root).__name__, str(error))
            return
        finally:
            self._before.clear()
        told = {"version": 1, "model": type(root).__name__, "times": times, "before": layers[0], "after": layers[1]}
        write_json(self.file, told)
        self.changed(
            f"{type(root).__name__}: "
            + ", ".join(f"{one['after_ms']:.3g} ms with {one['samples']} in a call" for one in times)
        )
