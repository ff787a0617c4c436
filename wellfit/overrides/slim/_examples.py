"""What models are called with in an evaluation, kept to call them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from wellfit.overrides.nested import mapped
from wellfit.slim.measure.inputs import Inputs

if TYPE_CHECKING:
    from wellfit.overrides.calls import ForwardCall


class Examples:
    """The first call of each model.

    The models are held until `forget`: at the end of a program nobody else may hold them any more.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Module, Inputs] = {}

    def note(self, root: nn.Module, call: ForwardCall) -> None:
        """A model is called."""
        if root in self._kept:
            return
        args, kwargs = mapped((call.args, call.kwargs), lambda tensor: tensor.detach().clone())
        self._kept[root] = Inputs(tuple(args), kwargs)

    def largest(self) -> tuple[nn.Module, Inputs] | None:
        """The model with most parameters, and what it was called with; None if none was called."""
        roots = list(self._kept)
        if not roots:
            return None
        root = max(roots, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))
        return root, self._kept[root]

    def forget(self) -> None:
        """They are no longer needed."""
        self._kept.clear()
