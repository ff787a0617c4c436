"""Convolutions in a cheaper form. All of it needs distillation from the model as it was.

Width is a matter of structured cuts: a model of half the width is one with half of all channels cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.grouped import Grouped, assigned
from wellfit.slim.changes.reduced import Reduced, reduction
from wellfit.slim.changes.separable import Separable, separated
from wellfit.slim.methods.proposal import Proposal, weighty_layers

FORMS = ("separable", "grouped", "reduced")


def rewrite(model: nn.Module, form: str, *, strength: float | None = None, first: bool = False) -> Proposal:
    """The same form for all convolutions that it fits.

    Args:
        model: is not changed.
        form: "separable", "grouped" or "reduced".
        strength: filters for each channel (separable, 1 if None), groups (grouped, 4 if None), or the share of the
            input channels between (reduced, 0.25 if None).
        first: the first convolution too, whose few inputs carry everything.

    Raises:
        WellfitError: there is no such form.
    """
    if form not in FORMS:
        raise WellfitError(f'there is no form "{form}"; there are {", ".join(FORMS)}')
    changes: list[Change] = []
    errors: dict[str, float] = {}
    skipped: dict[str, str] = {}
    is_first = not first
    for name, layer in weighty_layers(model):
        if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            skipped[name] = f"it is {type(layer).__name__}, not a convolution"
        elif is_first:
            is_first = False
            skipped[name] = "it is the first convolution"
        else:
            change, error_of = _of(form, name, layer, strength)
            try:
                change.checked(model)
                errors[name] = error_of()
                changes.append(change)
            except Unfit as error:
                skipped[name] = str(error).removeprefix(f"{name}: ")
    return Proposal(tuple(changes), skipped, errors, Separable.needs if changes else "")


def _of(form: str, name: str, layer: Any, strength: float | None) -> tuple[Any, Callable[[], float]]:
    """The change, and what gives its error."""
    weight = layer.weight
    if form == "separable":
        each = int(strength or 1)
        return Separable(name, each), lambda: separated(weight, each)[2]
    if form == "grouped":
        groups = int(strength or 4)
        return Grouped(name, groups), lambda: assigned(weight, groups)[2]
    channels = max(1, int((0.25 if strength is None else strength) * weight.shape[1]))
    return Reduced(name, channels), lambda: reduction(weight, channels)[2]
