"""Wider or narrower hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import nn

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.channels import Group
    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class Width(Override):
    """Wider or narrower hidden layers.

    What it changes: when a model is called for the first time, its hidden linear layers, convolutions and recurrent
    layers get `factor` times as many units (rounded, at least one), and the norms and layers that take their output
    are made to fit, through pooling, flatten, sums and concatenations. Layers that are added to one another get the
    same width. Every layer that is changed draws all its parameters anew, by the rule of its class.

    When it helps: a network too small for its training data (the loss of training stays high), or too large (overfit).

    Safety: unsafe; another network is trained, and weights that were set or loaded before are lost.

    Where it does not apply: the model's inputs and outputs keep their sizes; embeddings, attention, grouped
    convolutions, shared weights and everything whose way through the model is not understood keep theirs, and are
    named. A size that the script wrote down (`x.view(-1, 320)`) keeps its layers as they are. Copies of the model that
    the script made before, or gives its weights later, are changed with it; weights saved in another run do not fit.

    References: Zagoruyko, Komodakis, Wide residual networks (2016); Goodfellow, Bengio, Courville, Deep Learning
    (2016), chapter 11.4.1: capacity grows with the number of hidden units.
    """

    name = "width"
    summary = "make hidden layers wider or narrower by a factor"
    example = "width=2"
    safe = False
    misfit = "no model has a hidden layer whose width can be changed"
    rank = 12

    factor: float = number("factor on the number of units", low=0.05, high=20)

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.model._copies import follow_loading

        follow_loading(self, program)

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        from wellfit.overrides.channels import find_groups
        from wellfit.overrides.model._copies import changing
        from wellfit.overrides.tree import acts_on, forbid_compiled, forbid_parallel, is_new, mark
        from wellfit.overrides.trial import try_call

        if not acts_on(self, root):
            return
        forbid_compiled(root)
        forbid_parallel(root)
        outputs = try_call(program, root, call).outputs
        with changing(self, program, root):
            for group in find_groups(program, root, call):
                if not all(is_new(self, producer) for producer in group.producers.values()):
                    continue
                why = group.obstacle or self._unfit(root, group)
                if not why:
                    why = self._change(program, root, call, group, outputs)
                for name in group.producers if why else ():
                    note = self.met if self.factor == 1 else self.left_out
                    note(name, why)
            mark(self, root)

    def _new_width(self, root: nn.Module, group: Group) -> int:
        """Rounded, and such that group norms on the way can be divided as before."""
        import math

        step = math.lcm(*(getattr(root.get_submodule(norm), "num_groups", 1) for norm in group.norms), 1)
        return max(1, round(group.width * self.factor / step)) * step

    def _unfit(self, root: nn.Module, group: Group) -> str:
        """Why a group cannot be changed; empty if it can."""
        import torch
        from torch import nn

        for name, producer in group.producers.items():
            if not isinstance(producer, (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)):
                return f"{name} is a {type(producer).__name__}"
        for name in (*group.producers, *group.consumers, *group.norms):
            layer: Any = root.get_submodule(name)
            if getattr(layer, "groups", 1) != 1:
                return f"{name} is a grouped convolution"
            if getattr(layer, "proj_size", 0):
                return f"{name} has a projection"
            if hasattr(layer, "parametrizations") or (hasattr(layer, "weight") and "weight" not in layer._parameters):
                return f"the weight of {name} is computed from other parameters"
            if _shares(root, layer):
                return f"{name} shares its weight with another layer"
        for name, channels in (*group.consumers.items(), *group.norms.items()):
            counts = torch.bincount(channels[channels >= 0], minlength=group.width)
            if int(counts.min()) != int(counts.max()):
                return f"its channels do not come into {name} alike"
        for name in group.norms:
            shape = getattr(root.get_submodule(name), "normalized_shape", (0,))
            if len(shape) != 1:
                return f"{name} normalises more than channels"
        return ""

    def _change(
        self, program: Program, root: nn.Module, call: ForwardCall, group: Group, outputs: list[tuple[int, ...]]
    ) -> str:
        """Rebuild a group; where the model does not work after that, everything is put back and the reason given."""
        from wellfit.overrides.model._sizes import Rebuilt
        from wellfit.overrides.trial import try_call

        width = self._new_width(root, group)
        if width == group.width:
            return f"{group.width} units times {self.factor:g} are as many again"
        rebuilt = Rebuilt()
        try:
            with program.randomness():
                for name in dict.fromkeys((*group.producers, *group.consumers, *group.norms)):
                    rebuilt.layer(
                        root.get_submodule(name),
                        outputs=width if name in group.producers else None,
                        more_inputs=sum(
                            (width - group.width) * int((channels >= 0).sum()) // group.width
                            for channels in (group.consumers.get(name), group.norms.get(name))
                            if channels is not None
                        ),
                    )
            if try_call(program, root, call).outputs != outputs:
                raise WellfitError("the model's output would have another shape")
        except Exception as error:
            rebuilt.undo()
            return str(error) if isinstance(error, WellfitError) else f"{type(error).__name__}: {error}"
        self.changed(f"{listed(group.producers)}: {group.width} -> {width} units")
        return ""


def _shares(root: nn.Module, layer: nn.Module) -> bool:
    own = {id(parameter) for parameter in layer.parameters()}
    return any(
        id(parameter) in own
        for module in root.modules()
        if module is not layer
        for parameter in module._parameters.values()
        if parameter is not None
    )
