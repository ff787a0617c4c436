"""Alias: a tied tensor, which has the numbers of another tensor of the file and no bytes of its own."""

from __future__ import annotations

from collections.abc import Mapping

from wellfit.errors import WellfitError
from wellfit.slim.wfz.damage import Damaged
from wellfit.slim.wfz.numbers import Same

CODE = 6
NAME = "alias"


def owner_of(name: str, tensors: Mapping[str, object]) -> str:
    """The tensor that holds the numbers of `name`, whatever lies between: in the file, an alias never means an alias.

    Raises:
        WellfitError: the chain ends at no tensor.
    """
    seen = [name]
    while isinstance(value := tensors[seen[-1]], Same):
        if value.name not in tensors:
            raise WellfitError(f"{seen[-1]!r} is tied to {value.name!r}, which is not among the tensors")
        if value.name in seen:
            raise WellfitError(f"{name!r} is tied to itself, by way of {', '.join(map(repr, seen[1:])) or 'nothing'}")
        seen.append(value.name)
    return seen[-1]


def check_owner(name: str, owner: int, aliases: list[bool]) -> None:
    """Damaged if an alias, as it was read, means no tensor or another alias: so there are no cycles.

    Args:
        owner: the place of the tensor that it means.
        aliases: of all tensors, in their order, whether they are aliases.
    """
    if owner >= len(aliases) or aliases[owner]:
        raise Damaged(f"{name!r} is tied to tensor {owner}, which is not there or tied itself")
