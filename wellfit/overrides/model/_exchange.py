"""Modules put in the place of a model's own, as far as the script calls what the model holds."""

from __future__ import annotations

from torch import nn

from wellfit.overrides.calls import ForwardCall
from wellfit.overrides.override import Override
from wellfit.overrides.program import Program
from wellfit.overrides.tree import exchange
from wellfit.overrides.trial import try_call


def exchange_all(
    override: Override,
    program: Program,
    root: nn.Module,
    call: ForwardCall,
    wanted: dict[nn.Module, tuple[str, nn.Module]],
) -> dict[nn.Module, tuple[str, nn.Module]]:
    """Exchange modules, and call the model by way of trial; gives those that are exchanged.

    A module that is called all the same is in its place again: the script keeps it outside of the model too.

    Args:
        wanted: by module its name and the one to be put in its place.

    Raises:
        WellfitError: the model does not work with them.
    """
    for old, (_, new) in wanted.items():
        exchange(root, old, new)
    strangers = try_call(program, root, call).strangers if wanted else {}
    done = dict(wanted)
    for old in strangers:
        if old in done:
            name, new = done.pop(old)
            exchange(root, new, old)
            override.left_out(name, "the script also keeps it outside of the model, and calls it there")
    return done
