"""Batch norms folded into the layers before them, wherever that gives the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from wellfit.slim.changes import Unfit
from wellfit.slim.changes.fold import Fold
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import copied, copy_of, difference, outputs, said, scrambled, tolerance
from wellfit.slim.methods.passes import passes

_NORM = nn.modules.batchnorm._BatchNorm
_MAKERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Folds:
    """What came of it.

    Args:
        changes: the norms that can be folded, in the order of the model.
        skipped: by norm, why it cannot.
    """

    changes: tuple[Fold, ...]
    skipped: Mapping[str, str]


def folds(model: nn.Module, inputs: Inputs) -> Folds:
    """The batch norms of a model that can be folded, tried on copies and checked by the copies' outputs.

    Args:
        model: is not changed; `apply` of the changes, in their order, changes it. In training it is another model
            then: the norm is gone.
        inputs: an example.

    Raises:
        Unfit: the model cannot be copied, or fails with the inputs.
    """
    given, base = inputs.to("cpu"), copied(model)
    bases = [base, scrambled(base)]
    expected = [outputs(one, given, "the model") for one in bases]
    pairs, skipped = _pairs(base, given)
    wanted = [Fold(layer, norm) for norm, layer in pairs.items()]
    try:
        for one, before in zip(bases, expected):
            _folded(one, wanted, given, before)
        return Folds(tuple(wanted), skipped)
    except Unfit:
        changes = []
    for fold in wanted:  # some cannot be: one after the other
        try:
            bases = [_folded(one, [fold], given, before) for one, before in zip(bases, expected)]
        except Unfit as error:
            skipped[fold.norm] = str(error)
            continue
        changes.append(fold)
    return Folds(tuple(changes), skipped)


def _folded(base: nn.Module, more: Sequence[Fold], inputs: Inputs, expected: list[torch.Tensor]) -> nn.Module:
    """A copy in which more norms are folded.

    Raises:
        Unfit: they cannot be, or the outputs are others.
    """
    tried = copy_of(base)
    for fold in more:
        fold.apply(tried)
    found = outputs(tried, inputs, "the folded model")
    if (far := difference(expected, found)) > tolerance(found):
        raise Unfit(f"the outputs differ by {far:.2g} of the largest: {more[-1].layer} is used elsewhere too")
    return tried


def _pairs(model: nn.Module, inputs: Inputs) -> tuple[dict[str, str], dict[str, str]]:
    """Norms and the layers before them, and norms that have no such layer and why."""
    norms = [name for name, module in model.named_modules() if isinstance(module, _NORM)]
    try:
        calls = passes(model, inputs)
    except Exception as error:
        raise Unfit(f"the model fails: {said(error)}") from error
    makers = {id(call.result): call for call in calls if isinstance(call.module, _MAKERS)}
    counted: dict[str, int] = {}
    for call in calls:
        counted[call.name] = counted.get(call.name, 0) + 1
    pairs: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for name in norms:
        used = next((call for call in calls if call.name == name), None)
        if used is None:
            skipped[name] = "it is not used in this forward pass"
        elif counted[name] > 1:
            skipped[name] = f"it is called {counted[name]} times"
        elif (maker := makers.get(id(used.given))) is None:
            skipped[name] = "what it gets does not come straight from a linear layer or convolution"
        elif counted[maker.name] > 1:
            skipped[name] = f"{maker.name}, before it, is called {counted[maker.name]} times"
        else:
            pairs[name] = maker.name
    return pairs, skipped
