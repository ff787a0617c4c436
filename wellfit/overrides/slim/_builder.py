"""A model that a function of the user's makes."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from torch import nn

from wellfit.errors import WellfitError
from wellfit.overrides.words import in_short


def built(place: str, what: str) -> nn.Module:
    """What a function of the user's returns when it is called without arguments.

    Args:
        place: as "package.module:function"; it may be the class itself. The current folder is looked into as well.
        what: for errors.

    Raises:
        WellfitError: there is no such function, it fails, or returns no module.
    """
    name, _, function = place.partition(":")
    if not name or not function:
        raise WellfitError(f'{what} is "package.module:function", not "{place}"')
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        made = import_module(name)
        for part in function.split("."):
            made = getattr(made, part)
        made = made()  # type: ignore[operator]
    except Exception as error:
        raise WellfitError(f"{what}: {place} cannot be built ({in_short(error)})") from None
    if not isinstance(made, nn.Module):
        raise WellfitError(f"{what}: {place} returns {type(made).__name__}, not a module")
    return made
