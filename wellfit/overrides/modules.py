"""A model's modules and parameters by name, for overrides that are given a pattern or mean "the hidden layers"."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def matches(name: str, pattern: str) -> bool:
    """Whether a name is meant: by itself (`*`, `?` and `[...]` as in a shell), or as a part of what is meant."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def layers_with_parameters(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that hold parameters of their own, in the order of the model's definition."""
    return [
        (name, module)
        for name, module in root.named_modules()
        if any(parameter is not None for parameter in module._parameters.values())
    ]


def stages(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts with parameters that a model calls one after the other, as far as its definition tells.

    These are its children; lists of modules are taken apart, and where there is only one part, its own parts are meant.
    """
    from torch import nn

    def parts(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        found: list[tuple[str, nn.Module]] = []
        for name, child in module.named_children():
            if next(child.parameters(), None) is not None:
                inner = isinstance(child, (nn.ModuleList, nn.ModuleDict))
                found += parts(f"{prefix}{name}.", child) if inner else [(prefix + name, child)]
        return found

    found = parts("", root)
    while len(found) == 1:
        inner = parts(f"{found[0][0]}.", found[0][1])
        if not inner:
            break
        found = inner
    return found
