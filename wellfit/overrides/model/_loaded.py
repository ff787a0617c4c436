"""Weights that a model has from training, or from another model: an override leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import nn

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


def may_set_weights(override: Override, program: Program, root: nn.Module) -> bool:
    """Whether an override that sets weights may do so in a model that is called for the first time.

    Not where it has the weights of a model that was changed already, nor where training has begun and no optimizer
    holds any of its parameters: then they may be an average of what was learned (which is said).
    """
    from wellfit.overrides.model._copies import is_copy_of_changed
    from wellfit.overrides.modules import layers_with_parameters
    from wellfit.overrides.tree import acts_on, is_new

    if not any(is_new(override, module) for _, module in layers_with_parameters(root)):
        return False  # around a model that was changed
    if not acts_on(override, root) or is_copy_of_changed(override, root):
        return False
    held = {id(each) for made in program.optimizers for group in made.param_groups for each in group["params"]}
    if program.step and not any(id(parameter) in held for parameter in root.parameters()):
        override.left_out(
            f"{type(root).__name__}{here_text()}",
            "training has begun and no optimizer holds its parameters: they may be an average of what was learned",
        )
        return False
    return True
