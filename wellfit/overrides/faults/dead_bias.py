"""Units that are dead from the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    Where it does not apply: to models whose hidden layers have no bias.

    References: Lu et al., Dying ReLU and Initialization (2019).
    """

    name = "dead-bias"
    summary = "set the biases of hidden layers far below 0: ReLUs are dead from the start"
    example = "dead-bias"
    safe = False
    misfit = "no model is called that has a hidden layer with a bias"
    rank = 29  # after init and its kin, which would set the biases anew

    value: float = number("the bias", high=0, default=-100.0)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        import torch
        from torch import nn

        from wellfit.overrides.tree import is_new, mark

        products = (nn.Linear, nn.modules.conv._ConvNd)
        layers = [(name, module) for name, module in layers_with_parameters(root)]
        last = next((module for _, module in reversed(layers) if isinstance(module, products)), None)
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
