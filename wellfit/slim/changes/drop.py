"""A whole layer or block left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.slim.changes.change import Change, Unfit

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Drop(Change):
    """A layer that gives what it gets, or nothing, in its place.

    Args:
        layer: its name; what it gives has the shape of what it gets.
        branch: True for a branch beside a shortcut (`x + layer(x)`), which gives zeros then; else `x` goes through.
    """

    name = "drop"

    layer: str
    branch: bool = False

    def apply(self, model: nn.Module) -> None:
        """See `Change`."""
        from wellfit.slim.changes._stand_ins import Nothing, Through
        from wellfit.slim.changes._tree import module_of, put_module

        if not self.layer:
            raise Unfit("the whole model cannot be dropped")
        old = module_of(model, self.layer)
        new = Nothing() if self.branch else Through()
        put_module(model, self.layer, new.train(old.training))

    def redo(self, model: nn.Module) -> None:
        """See `Change`."""
        self.apply(model)
