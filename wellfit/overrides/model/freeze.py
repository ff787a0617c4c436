"""Parameters that stay as they are."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import text
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Freeze(Override):
    """Parameters that stay as they are.

    What it changes: from a model's first call on, parameters whose name fits the pattern (`features.*`), or that lie in
    a module whose name fits it (`features`), take no gradient, so that optimizers leave them as they are, without
    weight decay too. A batch norm whose parameters are all frozen also keeps its running statistics and uses them.

    When it helps: fine-tuning, where the layers below should stay as they were learned; to see what a part is good for.

    Safety: unsafe; a part of the network is not trained.

    Where it does not apply: to all parameters at once; to weights that are changed without an optimizer.

    References: Yosinski et al., How transferable are features in deep neural networks? (2014).
    """

    name = "freeze"
    summary = "keep the parameters of some layers as they are"
    example = "freeze=features.*"
    safe = False
    misfit = "no parameter or module has such a name"
    rank = 28

    pattern: str = text("pattern of names (`*` and `?`), of parameters or of modules that hold them")

    _frozen: weakref.WeakKeyDictionary[Any, list[Any]] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.layers.hooks import StandStill
        from wellfit.overrides.tree import forbid_compiled, forbid_parallel, is_norm

        forbid_compiled(root)
        # A shared parameter has several names, any of which may be meant.
        named = root.named_parameters(remove_duplicate=False)
        names = {name: parameter for name, parameter in named if self._fits(name)}
        norms = [
            (name, module)
            for name, module in root.named_modules()
            if is_norm(module) and getattr(module, "running_mean", None) is not None and self._whole(name, module)
        ]
        if not names and not norms:
            return
        forbid_parallel(root)
        frozen = list({id(parameter): parameter for parameter in names.values()}.values())
        if len(frozen) == len(list(root.parameters())):
            raise WellfitError(
                f'"{self.pattern}" fits all parameters of {type(root).__name__}: nothing would be trained'
            )
        for parameter in frozen:
            parameter.requires_grad = False  # as `requires_grad_` refuses those whose size is not known yet
            parameter.grad = None
        self._frozen[root] = frozen
        for _, module in norms:
            if not any(isinstance(hook, StandStill) for hook in module._forward_pre_hooks.values()):
                module.register_forward_pre_hook(StandStill())
        self.changed(f"no gradient for {listed(names)}")
        if norms:
            self.changed(f"running statistics of {listed(name for name, _ in norms)} stay")

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        for parameter in self._frozen.get(root, ()):
            if parameter.requires_grad:  # the script has let it go again
                parameter.requires_grad_(False)

    def _fits(self, name: str) -> bool:
        parts = name.split(".")
        return any(fnmatchcase(".".join(parts[:end]), self.pattern) for end in range(1, len(parts) + 1))

    def _whole(self, name: str, module: nn.Module) -> bool:
        if self._fits(name):
            return True
        own = [f"{name}.{key}" for key, _ in module.named_parameters()]
        return bool(own) and all(self._fits(key) for key in own)
