"""Another rate of dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.trial import Trial


@dataclass(kw_only=True, eq=False)
class Dropout(Override):
    """Another rate of dropout.

    What it changes: where a model has dropout (modules, `F.dropout`, the rate of recurrent layers of two layers and
    more, of attention), all of it gets the rate p. Where it has none, dropout with the rate p stands from then on
    before each linear layer and convolution that takes the output of a hidden activation or of a recurrent layer: in
    training mode, where gradients are taken, an element becomes 0 with probability p, and the others are multiplied by
    1 / (1 - p).

    When it helps: where wellfit finds overfit (more), or where the loss of training stays high (less).

    Safety: unsafe; another problem is trained, and the script's later random numbers are others.

    Where it does not apply: p = 0 to a model without dropout; models that are never in training mode; functions that
    torch.jit has compiled.

    References: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (2014), section 4;
    Zaremba, Sutskever, Vinyals, Recurrent neural network regularization (2014), on dropout between recurrent layers.
    """

    name = "dropout"
    summary = "set the rate of dropout; put dropout in where there is none"
    example = "dropout=0.5"
    safe = False
    misfit = "no model has dropout, nor a hidden activation before a layer"
    rank = 20

    p: float = number("probability of an element to become 0", low=0, high=0.99)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch
        import torch.nn.functional as F

        from wellfit.overrides.layers.functional import DROPOUT_FUNCTIONS
        from wellfit.overrides.model._scripting import keep_scriptable

        def with_rate(original: Any) -> Any:
            def dropout(*args: Any, **kwargs: Any) -> Any:
                if len(args) > 1:
                    return original(args[0], self.p, *args[2:], **kwargs)
                return original(*args, **{**kwargs, "p": self.p})

            return dropout

        def attention(original: Any) -> Any:
            def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Any:
                if kwargs.get("dropout_p"):
                    kwargs["dropout_p"] = self.p
                return original(*args, **kwargs)

            return scaled_dot_product_attention

        for name in DROPOUT_FUNCTIONS:
            program.patch(F, name, with_rate)
        of_torch = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
        for name in of_torch:
            program.patch(torch, name, with_rate)
            wrapper = getattr(torch, name)
            wrapper.__module__, wrapper.__qualname__ = "torch", name
        program.patch(F, "scaled_dot_product_attention", attention)
        functions = [getattr(F, name) for name in (*DROPOUT_FUNCTIONS, "scaled_dot_product_attention")]
        keep_scriptable(program, [*functions, *(getattr(torch, name) for name in of_torch)])

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.layers.functional import DROPOUT_FUNCTIONS
        from wellfit.overrides.tree import acts_on, forbid_compiled, mark
        from wellfit.overrides.trial import try_call

        if not acts_on(self, root):
            return
        forbid_compiled(root)
        trial = try_call(program, root, call)
        functions = [each for each in trial.calls if each.kind == "function" and each.name in DROPOUT_FUNCTIONS]
        for each in functions:
            self.changed(f"{each.name} at {each.site}: p = {self.p:g}")
        if not self._modules(root) and not functions and self.p:
            self._insert(root, trial)
        mark(self, root)

    def _modules(self, root: nn.Module) -> bool:
        """Set the rates that modules hold; returns whether there are any, or were in what another call changed."""
        from torch import nn

        from wellfit.overrides.tree import is_new

        found = False
        for name, module in root.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                attribute, old = "p", module.p
            elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)) and module.dropout:
                attribute, old = "dropout", module.dropout
            else:
                continue
            found = True
            if is_new(self, module):
                setattr(module, attribute, self.p)
                self.changed(f"{name or type(module).__name__}: p = {old:g} -> {self.p:g}")
        return found

    def _insert(self, root: nn.Module, trial: Trial) -> None:
        from torch import nn

        from wellfit.overrides.layers.hooks import Drop
        from wellfit.overrides.tree import is_new

        before: dict[nn.Module, str] = {}
        for call in trial.layers:
            if not isinstance(call.module, (nn.Linear, nn.modules.conv._ConvNd)) or not is_new(self, call.module):
                continue
            recurrent = any(isinstance(source.module, (nn.RNNBase, nn.RNNCellBase)) for source in call.sources)
            if recurrent or any(passed.activation is not None for passed in call.passed):
                before[call.module] = call.name
        for layer in before:
            layer.register_forward_pre_hook(Drop(self.p), with_kwargs=True)
        if before:
            self.changed(f"dropout with p = {self.p:g} before {listed(before.values())}")
