"""What a model is given, and overrides that put something else in its place."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.overrides.override import Override
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(frozen=True)
class Input:
    """The first tensor that a model is given, and where it stands: a place in `args` or a name in `kwargs`."""

    place: int | str
    tensor: Tensor


def first_input(call: ForwardCall) -> Input | None:
    """The first tensor among a model's arguments; None if there is none with elements (a list of tensors is none)."""
    import torch

    given: list[tuple[int | str, Any]] = [*enumerate(call.args), *call.kwargs.items()]
    for place, value in given:
        if isinstance(value, torch.Tensor):
            return Input(place, value) if value.numel() else None
    return None


def put_input(call: ForwardCall, given: Input, tensor: Tensor) -> None:
    """Put another tensor in the place of a model's first one."""
    if isinstance(given.place, str):
        call.kwargs = {**call.kwargs, given.place: tensor}
    else:
        call.args = (*call.args[: given.place], tensor, *call.args[given.place + 1 :])


def is_taught(root: nn.Module) -> bool:
    """Whether a call of this model is a part of training: gradients are taken, and it is in train mode."""
    import torch

    return torch.is_grad_enabled() and root.training


@dataclass(kw_only=True, eq=False)
class InputOverride(Override):
    """Base of overrides that replace the first tensor that a model is given, in training and in evaluation.

    Models that are fed by another one (a decoder, whose first input comes with its graph) are left as they are, and so
    are inputs that are trained themselves. Where a script calls a model's layers one by one, they are models of their
    own, and only the first is fed with data.

    Class fields:
        takes_whole: whether whole numbers (tokens) can be given to `replaced`.
        says: what `changed` says behind the model's name.
    """

    takes_whole: ClassVar[bool] = False

    misfit = "no model is given a tensor of data that it could change"

    _fed: weakref.WeakKeyDictionary[Any, bool] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def says(self, root: nn.Module, tensor: Tensor) -> str:
        """What is changed, for the user: stands behind the name of the model."""
        raise NotImplementedError

    def unfit(self, root: nn.Module, tensor: Tensor) -> str | None:
        """Why this input cannot be changed; None if it can."""
        return None

    def replaced(self, program: Program, root: nn.Module, tensor: Tensor) -> Tensor:
        """The tensor to be given instead."""
        raise NotImplementedError

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        fed = self._fed.get(root)
        if fed is False:
            return
        given = first_input(call)
        if fed is None:
            fed = self._fed[root] = self._is_fed(program, root, given)
        if fed and given is not None:
            put_input(call, given, self.replaced(program, root, given.tensor))

    def _is_fed(self, program: Program, root: nn.Module, given: Input | None) -> bool:
        """Whether a model is given data, decided by its first call."""
        name = f"{type(root).__name__}{here_text()}"
        if given is None:
            why: str | None = "it is given no tensor"
        elif given.tensor.grad_fn is not None:
            why = "another model feeds it"
        elif given.tensor.requires_grad and _is_trained(program, given.tensor):
            why = "its input is trained"
        elif not (given.tensor.is_floating_point() or self.takes_whole):
            why = "its input are whole numbers"
        else:
            why = self.unfit(root, given.tensor)
        if why is not None or given is None:
            self.left_out(name, why or "")
            return False
        self.changed(f"input of {name}: {self.says(root, given.tensor)}")
        return True


def _is_trained(program: Program, tensor: Tensor) -> bool:
    return any(
        parameter is tensor
        for optimizer in program.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
