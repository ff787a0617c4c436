"""How much each layer's weights matter, seen without labels on what the script evaluates."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import number, text
from wellfit.overrides.slim._watching import Watching

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program

_CALLS = 8  # of a model that are kept, at most
_NUMBERS = 1 << 26  # in the inputs that are kept of a model, at most


@dataclass(kw_only=True, eq=False)
class Scan(Watching):
    """How much each layer's weights matter, seen without labels on what the script evaluates.

    What it changes: nothing. What the model is called with in the script's first evaluation is kept, up to 8 calls of
    it. When the evaluation has ended, one layer after the other is given weights of which a part is 0 (half, 80 %,
    95 %, the smallest), then weights of 16 and of 4 different values, and the model's answers are compared with those
    of the model as it is: the share of equal argmax, and ||y' - y|| / ||y||. All is put back bit for bit, and random
    numbers go on as if nothing had been. The result is written as JSON. Of several models it is the one with most
    parameters.

    When it helps: to see which layers can be pruned most.

    Safety: safe; the program means the same. It takes up to so many `seconds`, and memory for 8 batches.

    Where it does not apply: to models whose output is no tensor of real numbers; to layers that `prune` leaves alone.
    What a layer can bear alone, and without training, is less than what it can bear with it.

    References: Li, Kadav, Durdanovic, Samet, Graf, Pruning Filters for Efficient ConvNets (2017), section 3.2.
    """

    name = "scan"
    summary = "see how much the weights of each layer matter"
    example = "scan=layers.json"
    safe = True
    misfit = ""
    rank = 91
    looks = True

    file: str = text("path of the file that is written")
    seconds: float = number("time that it may take", above=0, default=30.0)

    # The models are held: at the end of the program nobody else may hold them any more.
    _calls: dict[Any, list[tuple[Any, Any]]] = field(default_factory=dict, init=False)
    _numbers: int = field(default=0, init=False)
    _done: bool = field(default=False, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        super().begin(program)
        self.is_met = True  # a script may evaluate long after its first step

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        super().before_forward(program, root, call)
        if self._done or not self._evaluations.running:
            return
        from wellfit.overrides.nested import mapped, tensors_in

        kept = self._calls.setdefault(root, [])
        count = sum(tensor.numel() for tensor in tensors_in((call.args, call.kwargs)))
        if len(kept) < _CALLS and (not kept or self._numbers + count <= _NUMBERS):
            kept.append(mapped((call.args, call.kwargs), lambda tensor: tensor.detach().clone()))
            self._numbers += count

    def evaluated(self, program: Program, found: dict[str, Any]) -> None:
        """See `Watching`."""
        from wellfit.overrides.slim._scanning import scanned

        if self._done or not self._calls:
            return
        self._done = True
        root = max(self._calls, key=lambda root: sum(parameter.numel() for parameter in root.parameters()))
        begun = time.monotonic()
        told = scanned(program, root, self._calls[root], begun + self.seconds)
        self._calls.clear()
        told["seconds"] = round(time.monotonic() - begun, 3)
        path = os.path.abspath(self.file)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(told, file, indent=1)
        os.replace(path + ".part", path)
        for name, why in told["skipped"]:
            self.left_out(name, why)
        most = max(told["layers"], key=lambda layer: layer["prune"][0][1], default=None)
        if most is not None:
            self.changed(f"{len(told['layers'])} layers of {told['model']}; {most['name']} matters most")
        else:
            self.left_out(told["model"], "it has no layers that could be pruned")

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if not self._done:
            self.left_out("the scan", "the script evaluated no model")
