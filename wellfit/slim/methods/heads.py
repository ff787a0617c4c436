"""Heads of torch's own attention that a model can do without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from wellfit.slim.changes import Unfit
from wellfit.slim.changes._attention import SlimAttention
from wellfit.slim.changes.heads import Heads
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.choice import choose
from wellfit.slim.methods.coupled.groups import coupling
from wellfit.slim.methods.importance import importance
from wellfit.slim.methods.structured import checked_cut


@dataclass(frozen=True)
class HeadCuts:
    """What came of it.

    Args:
        changes: one for each attention layer that loses heads.
        skipped: by layer, why it keeps them all.
    """

    changes: tuple[Heads, ...]
    skipped: Mapping[str, str]


def heads(model: nn.Module, inputs: Inputs, share: float, *, by: str = "output", scope: str = "global") -> HeadCuts:
    """The least important heads of all `nn.MultiheadAttention`, each layer's checked against the masked model.

    Attention that a user wrote is cut by `structured.prune`, as a group like others.

    Args:
        model: is not changed; `apply` of the changes changes it.
        inputs: an example.
        share: of the heads to cut; in 0..1. Each layer keeps one.
        by: see `importance`.
        scope: see `choose`.

    Raises:
        Unfit: the model cannot be followed at all.
        WellfitError: an argument is out of range.
    """
    found = coupling(model, inputs)
    skipped: dict[str, str] = {}
    scores, counts = {}, {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.MultiheadAttention, SlimAttention)):
            continue
        try:
            group = found.group(name)
            if group.channels != module.num_heads:
                raise Unfit(f"its {module.num_heads} heads do not appear as such in the forward pass")
            scores[name], counts[name] = importance(model, inputs, group, by), module.num_heads
        except Unfit as error:
            skipped[name] = str(error)
    changes = []
    for name, kept in choose(scores, share, scope=scope).items():
        if len(kept) == counts[name]:
            continue
        try:
            checked_cut(model, inputs, found, {name: kept})
            changes.append(Heads(name, counts[name], kept))
        except Unfit as error:
            skipped[name] = str(error)
    return HeadCuts(tuple(changes), skipped)
