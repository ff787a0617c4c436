"""Parameters that no optimizer knows."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.modules import layers_with_parameters, matches
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number, text
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class LeaveOut(Override):
    """Parameters that no optimizer knows.

    What it changes: before an optimizer's first step some parameters are taken out of its groups, as if they had never
    been given to it. They still take gradients; nothing changes them and, where the script clears gradients by way of
    the optimizer, nothing clears theirs. Either those whose name matches `pattern`, or all of the first layers of the
    model's definition: a `share` of the layers that the optimizer holds, at least one, never all.

    When it helps: never; here to be found (a layer kept in a plain list, a new head that came after the optimizer).

    Safety: not safe; a fault.

    Where it does not apply: to loops without an optimizer, to models that are never called themselves.

    References: documentation of `torch.nn.ModuleList`.
    """

    name = "leave-out"
    summary = "keep a part of the parameters out of the optimizer"
    example = "leave-out=share:0.5"
    safe = False
    misfit = "no optimizer holds such parameters of a model that is called"
    rank = 20

    pattern: str | None = text("names of parameters or of layers, with * and ? as in a shell", default=None)
    share: float = number(
        "share of the layers, from the first on, where no pattern is given", above=0, high=1, default=0.5
    )

    _roots: list[weakref.ref[Any]] = field(default_factory=list, init=False)
    # What each optimizer loses at its first step.
    _gone: weakref.WeakKeyDictionary[Any, list[Any]] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        self._roots.append(weakref.ref(root))

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if optimizer in self._gone:
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        layers = [
            (name, [(full, parameter) for full, parameter in parameters if id(parameter) in held])
            for name, parameters in self._layers()
        ]
        layers = [(name, parameters) for name, parameters in layers if parameters]
        meant = self._meant(layers)
        if not meant:
            self.left_out(program.name(optimizer), "it holds no such parameters")
            return
        if held <= {id(parameter) for _, parameter in meant}:
            raise WellfitError(f"{program.name(optimizer)} would have nothing left to train")
        self._gone[optimizer] = [parameter for _, parameter in meant]
        names = listed((name for name, _ in meant), most=6)
        self.changed(f"{program.name(optimizer)}: without {names}")

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._take(optimizer)

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        self._take(optimizer)

    def _take(self, optimizer: Optimizer) -> None:
        gone = {id(parameter) for parameter in self._gone.get(optimizer, ())}
        if gone:
            self._gone[optimizer] = []
            for group in optimizer.param_groups:
                group["params"][:] = [parameter for parameter in group["params"] if id(parameter) not in gone]

    def _layers(self) -> list[tuple[str, list[tuple[str, Any]]]]:
        """The layers of the models that were called, each with its own parameters by full name."""
        roots = [root for reference in self._roots if (root := reference()) is not None]
        return [
            (
                name,
                [(f"{name}.{own}".lstrip("."), parameter) for own, parameter in module.named_parameters(recurse=False)],
            )
            for root in roots
            for name, module in layers_with_parameters(root)
        ]

    def _meant(self, layers: list[tuple[str, list[tuple[str, Any]]]]) -> list[tuple[str, Any]]:
        if self.pattern is not None:
            named = [pair for _, parameters in layers for pair in parameters]
            return [(name, parameter) for name, parameter in named if matches(name, self.pattern)]
        count = min(math.ceil(self.share * len(layers)), len(layers) - 1)
        return [pair for _, parameters in layers[: max(count, 0)] for pair in parameters]
