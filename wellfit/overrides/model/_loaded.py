"""Weights that the script loads into a model while it trains (those of another one, or of its best epoch)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellfit.overrides.override import Override
    from wellfit.overrides.program import Program


def note_loading(override: Override, program: Program) -> None:
    """A model that is given trained weights before its first call keeps them: it counts as one already changed."""
    from torch import nn

    from wellfit.overrides.tree import mark

    def noting(original: Any) -> Any:
        def load_state_dict(module: Any, *args: Any, **kwargs: Any) -> Any:
            if program.step:
                mark(override, module)
            return original(module, *args, **kwargs)

        return load_state_dict

    program.patch(nn.Module, "load_state_dict", noting)
