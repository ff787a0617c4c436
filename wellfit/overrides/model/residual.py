"""Ways around hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.override import Override
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.trial import Call, Trial


@dataclass(kw_only=True, eq=False)
class Residual(Override):
    """Ways around hidden layers.

    What it changes: a hidden linear layer or convolution whose output has the shape of its input, and around which no
    way leads yet, gives x + f(x) in the place of f(x); the activation behind it stays where it is.

    When it helps: deep plain networks whose gradient vanishes, or that train worse than shallower ones.

    Safety: unsafe; another network is trained.

    Where it does not apply: to layers that change the shape, to the first and the last one, to recurrent layers, and
    inside blocks that have a way around them already.

    References: He et al., Deep residual learning for image recognition (2016), equation 1; Identity mappings in deep
    residual networks (2016).
    """

    name = "residual"
    summary = "lead a way around each hidden layer that keeps its input's shape"
    example = "residual"
    safe = False
    misfit = "no model has a hidden layer that keeps its input's shape and has no way around it"
    rank = 18

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.layers.hooks import Around
        from wellfit.overrides.tree import acts_on, forbid_compiled, is_new, leave_fast_path, mark
        from wellfit.overrides.trial import try_call

        if not acts_on(self, root):
            return
        forbid_compiled(root)
        trial = try_call(program, root, call)
        around = {}
        for each in trial.layers:
            why = self._obstacle(trial, each)
            if why is None and each.module is not None and is_new(self, each.module):
                around[each.module] = each.name
            elif why:
                self.left_out(each.name, why)
        for layer in around:
            layer.register_forward_hook(Around(), with_kwargs=True)
        if around:
            leave_fast_path(root, around)
            self.changed(f"a way around {listed(around.values())}")
        mark(self, root)

    def _obstacle(self, trial: Trial, call: Call) -> str | None:
        """Why a layer gets no way around it; "" where that needs no word."""
        from torch import nn

        if not isinstance(call.module, (nn.Linear, nn.modules.conv._ConvNd)) or not call.sources:
            return ""
        if trial.is_head(call.name):
            return "it gives the model's output"
        if not call.inputs or call.inputs[0] != call.output:
            return "its output has another shape than its input"
        if trial.bridged(call):
            return "there is a way around it already"
        if any(source in trial.heads for source in call.sources):
            return "what goes into it is also a part of the model's output"
        return None
