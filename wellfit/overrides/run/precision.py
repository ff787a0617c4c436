"""Other number formats."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, switch
from wellfit.overrides.places import here_text
from wellfit.overrides.run._states import follow_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

_HALF = ("bfloat16", "float16")


@dataclass(kw_only=True, eq=False)
class Precision(Override):
    """Other number formats.

    What it changes: how a model computes. `bfloat16` and `float16`: each call of a model runs under autocast, so matrix
    products and convolutions are computed in half precision while weights, and what the model gives back, stay in
    float32. `float32` and `float64`: parameters, buffers, floating arguments and tensors made in the model are of this
    type, and autocast of the script's own is off in the model's call; targets and weights of torch's loss functions
    follow the prediction. With `pure` the weights themselves are cast to half precision, in place: what the model gives
    back is cast to float32. What optimizers keep of weights that are cast is cast too.

    When it helps: bfloat16 for speed and memory on hardware that has it; float32 and float64 to see whether something
    that goes wrong is a matter of rounding. `float16` is a fault here: nothing scales the loss, so gradients below
    6e-8 become 0. So is `pure:on`: a weight of 1 in bfloat16 has neighbours at a distance of 2^-8, so steps of less
    than a part in 500 of it are lost.

    Safety: not safe; float64 and bfloat16 keep what the program means, the faults do not.

    Where it does not apply: to models whose methods the script calls instead of the model itself; what is computed past
    the model's call keeps its type. Integer arguments stay.

    References: Micikevicius et al., Mixed Precision Training (2018); Kalamkar et al., A Study of BFLOAT16 for Deep
    Learning Training (2019).
    """

    name = "precision"
    summary = "compute in bfloat16, float16, float32 or float64"
    example = "precision=bfloat16"
    safe = False
    misfit = "no model is called that computes in another precision"
    rank = 75

    value: str = choice("the format of the model's numbers", (*_HALF, "float32", "float64"))
    pure: bool = switch("cast the weights themselves to half precision", default=False)

    _cast: weakref.WeakKeyDictionary[Any, bool] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def check(self) -> None:
        """See `Override`."""
        if self.pure and self.value not in _HALF:
            raise WellfitError(f"pure means weights of half precision: {self.value} has none; leave pure out")

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        import torch

        if self._cast.get(root):  # a part of a model that was cast, called by itself
            return
        wanted = getattr(torch, self.value)
        name = f"{type(root).__name__}{here_text()}"
        kinds = {parameter.dtype for parameter in root.parameters() if parameter.is_floating_point()}
        autocast = torch.is_autocast_enabled(_kind(root))
        if self.value in _HALF and not self.pure:
            if autocast and torch.get_autocast_dtype(_kind(root)) == wanted:
                self.met(name, f"the script calls it under autocast to {self.value}")
                return
            self.changed(f"{name}: under autocast to {self.value}")
        elif kinds <= {wanted} and not autocast:
            self.met(name, f"it computes in {self.value}")
            return
        else:
            with program.unseen():
                root.to(wanted)
            follow_model(root, program.optimizers)
            before = "autocast" if autocast else " and ".join(sorted(_text(kind) for kind in kinds))
            self.changed(f"{name}: {before} -> {self.value}{', weights too' * self.pure}")
        self._cast.update((module, True) for module in root.modules())

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if not self._cast.get(root):
            return
        import torch

        if self.value in _HALF and not self.pure:
            call.contexts.append(torch.autocast(_kind(root), getattr(torch, self.value)))
            return
        from wellfit.overrides.nested import mapped

        wanted = getattr(torch, self.value)
        call.args, call.kwargs = mapped(
            (call.args, call.kwargs), lambda tensor: tensor.to(wanted) if tensor.is_floating_point() else tensor
        )
        call.contexts += [torch.autocast(_kind(root), enabled=False), _default(wanted)]

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self.value not in _HALF or not self._cast.get(root):
            return
        import torch

        from wellfit.overrides.nested import mapped

        half = (torch.bfloat16, torch.float16)
        call.result = mapped(call.result, lambda tensor: tensor.float() if tensor.dtype in half else tensor)

    def loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        if self.value in _HALF or not call.prediction.is_floating_point():
            return
        from wellfit.overrides.nested import mapped

        kind = call.prediction.dtype
        call.target, call.options = mapped(
            (call.target, call.options), lambda tensor: tensor.to(kind) if tensor.is_floating_point() else tensor
        )


@contextlib.contextmanager
def _default(wanted: torch.dtype) -> Iterator[None]:
    """Tensors that a model makes in its call are of this type."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(wanted)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _kind(root: nn.Module) -> str:
    return next(root.parameters()).device.type


def _text(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
