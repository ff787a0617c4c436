"""Which layers get weights of one bit: all linear layers and convolutions but the first and the last."""

from __future__ import annotations

from torch import nn

from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.binary import Binary, binarised
from wellfit.slim.methods.proposal import Proposal, weighty_layers

EXACT = 1e-5


def binarise(model: nn.Module, *, both: bool = False, scaled: bool = False, ends: bool = False) -> Proposal:
    """Weights of one bit, as a run under `binarise=weights` or `binarise=both` has trained them.

    Args:
        model: is not changed. Layers whose weights are not signs times scales yet lose much: the proposal's `needs`
            says so.
        both: one bit for the inputs of the layers, too.
        scaled: as of `Binary`.
        ends: the first and the last layer too.
    """
    changes: list[Change] = []
    errors: dict[str, float] = {}
    skipped: dict[str, str] = {}
    layers = list(weighty_layers(model))
    for place, (name, layer) in enumerate(layers):
        if not ends and place in (0, len(layers) - 1):
            skipped[name] = "it is the first or the last layer"
            continue
        change = Binary(name, both, scaled)
        try:
            change.checked(model)
            assert isinstance(layer, (nn.Linear, nn.Conv2d))
            errors[name] = binarised(layer.weight)[2]
            changes.append(change)
        except Unfit as error:
            skipped[name] = str(error).removeprefix(f"{name}: ")
    trained = all(error < EXACT for error in errors.values())
    return Proposal(tuple(changes), skipped, errors, "" if trained else "a run under binarise")
