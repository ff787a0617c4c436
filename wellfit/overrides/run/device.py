"""Another device for the model."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice
from wellfit.overrides.places import here_text
from wellfit.overrides.run._states import follow_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Device(Override):
    """Another device for the model.

    What it changes: before a model's first call its parameters and buffers are moved, in place, so that the optimizers
    go on holding them, and what these keep of them is moved too; at each call its arguments are copied there, tensors
    that it makes itself are made there, and what it gives back is copied to where its first argument was. So the rest
    of the script, losses and metrics, goes on where it always was. Optimizer steps and gradients are where the
    parameters are.

    When it helps: to train on the GPU with a script that was written for the CPU, or to look for the origin of an error
    on the CPU.

    Safety: safe; numbers differ in their last digits, as between any two devices, and dropout draws others.

    Where it does not apply: to models whose methods the script calls instead of the model itself, to weights used past
    the model's call, and to models spread over several devices. Copies cost time: with small models it may be slower.

    References: none.
    """

    name = "device"
    summary = "move the model, and what it is given at each call, to the CPU or the GPU"
    example = "device=cuda"
    safe = True
    misfit = "no model is called that is on another device"
    rank = 5

    value: str = choice("where the model computes; auto: on the GPU if there is one", ("cpu", "cuda", "auto"))

    _moved: weakref.WeakKeyDictionary[Any, bool] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _homes: list[Any] = field(default_factory=list, init=False)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch

        if self.value == "cuda" and not torch.cuda.is_available():
            why = "torch was built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
            raise WellfitError(f"{why} here")

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._moved.get(root):  # a part of a model that was moved, called by itself
            return
        name = f"{type(root).__name__}{here_text()}"
        devices = {parameter.device for parameter in root.parameters()}
        wanted = self._wanted()
        self._moved[root] = False
        if len(devices) > 1:
            self.left_out(name, "it is spread over several devices")
        elif next(iter(devices)).type == wanted.type:
            self.met(name, f"it is on {wanted.type} already")
        else:
            with program.unseen():
                root.to(wanted)
            follow_model(root, program.optimizers)
            self._moved.update((module, True) for module in root.modules())
            self.changed(f"{name}: {next(iter(devices)).type} -> {wanted.type}")

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if not self._moved.get(root):
            return
        import torch

        from wellfit.overrides.nested import mapped, tensors_in

        wanted = self._wanted()
        first = next(tensors_in((call.args, call.kwargs)), None)
        self._homes.append(None if first is None else first.device)
        call.args, call.kwargs = mapped((call.args, call.kwargs), lambda tensor: tensor.to(wanted))
        call.contexts.append(torch.device(wanted))

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if not self._moved.get(root) or not self._homes:
            return
        from wellfit.overrides.nested import mapped

        home = self._homes.pop()
        if home is not None:
            call.result = mapped(call.result, lambda tensor: tensor.to(home))

    def _wanted(self) -> torch.device:
        import torch

        kind = self.value if self.value != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(kind)
