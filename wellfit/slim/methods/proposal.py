"""What a method proposes for a model: changes layer by layer, and why other layers are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from wellfit.slim.changes import Change


@dataclass(frozen=True)
class Proposal:
    """Changes that fit the model, in its order.

    Args:
        changes: each by itself can be made.
        errors: by layer, |W - W'| / |W| of the change, where it approximates the weights.
        skipped: by layer, why nothing is proposed for it.
        needs: what must follow for the model to be as good as it was; empty if nothing.
    """

    changes: tuple[Change, ...]
    skipped: Mapping[str, str]
    errors: Mapping[str, float] = field(default_factory=dict)
    needs: str = ""


def weighty_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that hold parameters of two dimensions or more, shared ones once, in the order of the model."""
    for name, module in model.named_modules():
        if any(parameter.ndim > 1 for parameter in module.parameters(recurse=False)):
            yield name, module
