"""Units that are dead from the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.overrides.model._loaded import may_set_weights, note_loading
from wellfit.overrides.modules import layers_with_parameters
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class DeadBias(Override):
    """Units that are dead from the start.

    What it changes: before a model's first call all biases of its hidden layers (linear, convolution, batch norm) are
    set to one value, far below 0. A ReLU behind them gives 0 for every input and lets no gradient through; a sigmoid or
    tanh is saturated. The last linear or convolution layer of the model's definition keeps its bias.

    When it helps: never; here to be found.

    Safety: not safe; a fault.

    Where it does not apply: to models whose hidden layers have no bias; to models that are given trained weights before
    their first call, or whose first call comes after the first step and whose parameters no optimizer holds (averages
    of weights), unless they are copies, which get the same biases as their model.

    References: Lu et al., Dying ReLU and Initialization (2019).
    """

    name = "dead-bias"
    summary = "set the biases of hidden layers far below 0: ReLUs are dead from the start"
    example = "dead-bias"
    safe = False
    misfit = "no model is called that has a hidden layer with a bias"
    rank = 29  # after init and its kin, which would set the biases anew

    value: float = number("the bias", high=0, default=-100.0)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        note_loading(self, program)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        import torch
        from torch import nn

        from wellfit.overrides.model._copies import setting
        from wellfit.overrides.tree import is_new, mark

        if not may_set_weights(self, program, root):
            return
        products = (nn.Linear, nn.modules.conv._ConvNd)
        layers = [(name, module) for name, module in layers_with_parameters(root)]
        last = next((module for _, module in reversed(layers) if isinstance(module, products)), None)
        with setting(self, program, root):
            for name, module in layers:
                bias = getattr(module, "bias", None)
                if (
                    isinstance(module, (*products, nn.modules.batchnorm._BatchNorm))
                    and module is not last
                    and bias is not None
                    and is_new(self, module)  # not a copy of a model that has learned since
                ):
                    with torch.no_grad(), program.unseen():
                        bias.fill_(self.value)
                    self.changed(f"{type(root).__name__}{here_text()}: bias of {name} = {self.value:g}")
        mark(self, root)
