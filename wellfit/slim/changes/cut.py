"""Channels, units or heads cut out of a model: smaller tensors, and modules that know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from wellfit.slim.changes.change import Change, Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn

Slice = tuple[str, int, tuple[int, ...] | int]
Setting = tuple[str, str, int | tuple[int, ...]]


@dataclass(frozen=True)
class Cut(Change):
    """Along axes of parameters and buffers some indices are kept, the others are gone.

    Args:
        slices: (tensor, axis, kept): which indices are kept, in their order; or only how many, which is enough for
            `redo`. A tensor that is used under several names appears under one of them.
        settings: (module, attribute, value): sizes that a module keeps as a number, or tuple of numbers, and that do
            not follow from its tensors: those of a user's own class, and how many heads an attention has.
    """

    name = "cut"

    slices: tuple[Slice, ...]
    settings: tuple[Setting, ...] = ()

    def apply(self, model: nn.Module) -> None:
        """See `Change`."""
        if not all(isinstance(kept, tuple) for _, _, kept in self.slices):
            raise Unfit("this cut says only how many channels are kept, not which")
        self.redo(model)

    def redo(self, model: nn.Module) -> None:
        """See `Change`."""
        from wellfit.slim.changes._refit import refit
        from wellfit.slim.changes._tree import put_tensor, tensor_of

        checked = [_checked(tensor_of(model, entry[0]), entry) for entry in self.slices]
        axes = [(id(tensor_of(model, name)), axis) for name, axis, _ in self.slices]
        if len(set(axes)) < len(axes):
            raise Unfit("this cut names the same axis of a tensor twice")
        setters = [_setter(model, setting) for setting in self.settings]
        _make_attention_cuttable(model, [name for name, _, _ in self.slices])
        holders: list[nn.Module] = []
        for (name, axis, _), indices in zip(self.slices, checked):
            old = tensor_of(model, name)
            values = old.detach().index_select(axis, indices.to(old.device)).contiguous()
            holders += put_tensor(model, old, values)
        for holder in dict.fromkeys(holders):
            refit(holder)
        for module in model.modules():  # its width is that of another module's tensor
            if type(module).__name__ == "SlimAttention":
                refit(module)
        for set_one in setters:
            set_one()

    def stored(self) -> Cut:
        """See `Change`: how many indices are kept, not which."""
        slices = tuple((name, axis, len(kept) if isinstance(kept, tuple) else kept) for name, axis, kept in self.slices)
        return Cut(slices, self.settings)


def _checked(tensor: torch.Tensor, entry: Slice) -> torch.Tensor:
    """The kept indices, as a tensor of whole numbers.

    Raises:
        Unfit: the tensor has no such axis or indices, or none or all would be kept.
    """
    import torch

    name, axis, kept = entry
    if not 0 <= axis < tensor.dim():
        raise Unfit(f"{name} has {tensor.dim()} axes, none of them is number {axis}")
    size = tensor.shape[axis]
    count = len(kept) if isinstance(kept, tuple) else kept
    if not 0 < count <= size:
        raise Unfit(f"{name} has {size} indices along axis {axis}, of which {count} cannot be kept")
    if isinstance(kept, int):
        return torch.arange(kept)
    if kept[0] < 0 or kept[-1] >= size or any(left >= right for left, right in pairwise(kept)):
        raise Unfit(f"the indices to keep of {name} along axis {axis} are no rising numbers below {size}")
    return torch.tensor(kept)


def _setter(model: nn.Module, setting: Setting) -> Callable[[], None]:
    """What sets one attribute, if it is there and holds the same kind of value.

    Raises:
        Unfit: it is not.
    """
    from wellfit.slim.changes._tree import module_of

    path, attribute, value = setting
    old = vars(module_of(model, path)).get(attribute)
    numbers = value if isinstance(value, tuple) else (value,)
    alike = type(old) is int if isinstance(value, int) else isinstance(old, (tuple, list)) and len(old) == len(value)
    if not alike or min(numbers, default=0) < 1:
        raise Unfit(f"{path or 'the model'} has no size {attribute!r} that could be {value}")

    def set_it() -> None:
        setattr(module_of(model, path), attribute, list(numbers) if isinstance(old, list) else value)

    return set_it


def _make_attention_cuttable(model: nn.Module, names: list[str]) -> None:
    """Modules of torch's attention whose tensors are cut become such as have sizes of their own.

    Raises:
        Unfit: one is of a kind that cannot.
    """
    from torch import nn

    from wellfit.slim.changes._attention import SlimAttention
    from wellfit.slim.changes._tree import put_module

    attentions = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    touched = [
        (path, module)
        for path, module in attentions
        if any(name.startswith(f"{path}." if path else "") for name in names)
    ]
    made = [(path, SlimAttention(module)) for path, module in touched]
    for path, slim in made:
        put_module(model, path, slim)
