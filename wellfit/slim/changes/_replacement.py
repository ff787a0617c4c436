"""Changes that put another module in the place of one layer: what is the same in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.slim.changes._swap import swap
from wellfit.slim.changes.change import Change

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Replacement(Change):
    """A change of one layer: a subclass says which layers it fits, what takes their place, and how weights follow.

    Args:
        layer: as in `model.named_modules()`.
    """

    layer: str

    def apply(self, model: nn.Module) -> None:
        """See `Change.apply`."""
        import torch

        old = self.checked(model)
        new = self._made(old)
        with torch.no_grad():
            self._fill(old, new)
        swap(model, self.layer, _frozen_alike(old, new))

    def redo(self, model: nn.Module) -> None:
        """See `Change.redo`."""
        old = self.checked(model)
        swap(model, self.layer, _frozen_alike(old, self._made(old)))

    def checked(self, model: nn.Module) -> Any:
        """The layer, which stays as it is.

        Raises:
            Unfit: the change does not fit it.
        """
        raise NotImplementedError

    def _made(self, old: Any) -> Any:
        """The module that takes the layer's place, with any weights."""
        raise NotImplementedError

    def _fill(self, old: Any, new: Any) -> None:
        """Give the new module its weights, in place.

        Raises:
            Unfit: they cannot be had from those of the layer.
        """
        raise NotImplementedError


def _frozen_alike(old: Any, new: Any) -> Any:
    """What was frozen stays frozen."""
    return new if any(parameter.requires_grad for parameter in old.parameters()) else new.requires_grad_(False)
