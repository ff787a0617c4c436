"""Weights of one bit, and layers that see one bit of their inputs."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from wellfit.overrides.parameters import choice, number, parameters_of, switch, text, whole
from wellfit.overrides.slim._patterns import Patterns
from wellfit.overrides.slim._span import Span
from wellfit.overrides.slim._stage import Stage
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch import Tensor

    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._weights import Model, Weight


@dataclass(kw_only=True, eq=False)
class Binarise(Stage):
    """Weights of one bit, and layers that see one bit of their inputs.

    What it changes: *weights*: between two steps each filter of a layer (a row of a matrix, a kernel of a convolution,
    a row of a table) holds the signs of the weights behind it times their mean size: sign(w) * mean |w|. An optimizer's
    step acts on the weights behind, which are kept within -1 and 1. What is pruned stays 0, and does not count in the
    mean. *both*: linear layers and convolutions see the signs of their inputs too (0 counts as positive); the gradient
    goes straight through where the input is within -1 and 1, and nowhere else. The first and the last layer are left
    alone, unless ends:on. `layers` says for single layers what becomes a sign, wherever they stand; with *off* they are
    left alone.

    When it helps: weights take a 32nd of the memory; where both are signs, a product of 64 pairs is one XNOR and a
    count of bits.

    Safety: unsafe; another network is trained, most often a worse one. With *both* a layer needs a batch norm before
    it, and the network is the same only where its layers see signs later too.

    Where it does not apply: to biases and norms; to weights that are changed without an optimizer, or computed from
    others (weight normalisation); to averages (EMA) that the script keeps of the weights. XNOR-Net's scale of the
    inputs is left out: a norm takes its place.

    References: Courbariaux, Bengio, David, BinaryConnect (2015); Rastegari, Ordonez, Redmon, Farhadi, XNOR-Net (2016),
    section 3; Hubara et al., Binarized Neural Networks (2016).
    """

    name = "binarise"
    summary = "weights that are a sign times a scale, and inputs that are signs"
    example = "binarise=weights"
    safe = False
    misfit = "no optimizer trains a model that has such layers beside its first and its last"
    rank = 32

    what: str = choice("what becomes a sign", ("weights", "both"), default="weights")
    start: float = number("share of the run's steps after which it begins", low=0, high=1, default=0.0)
    steps: int | None = whole("optimizer steps of the run, where start is not 0", default=None)
    ends: bool = switch("the first and the last layer too", default=False)
    layers: str | None = text("weights, both or off for single layers, as in fc2=both;fc3=off", default=None)

    _own: Patterns[str] = field(init=False)
    _span: Span = field(init=False)
    _chosen: weakref.WeakKeyDictionary[Model, dict[Weight, str]] = field(
        default_factory=weakref.WeakKeyDictionary, init=False
    )
    _signed: weakref.WeakSet[Model] = field(default_factory=weakref.WeakSet, init=False)  # whose inputs are signs

    def check(self) -> None:
        """See `Override`."""
        self._span = Span("binarise", self.start, self.start, self.steps)
        what = parameters_of(Binarise)["what"]
        single = replace(what, choices=(*what.choices, "off"))
        self._own = Patterns(self.layers, single.value, "layers of binarise", "WHAT")

    def taken_on(self, model: Model) -> None:
        """See `Stage`."""
        weights = [weight for weight in model.weights if not weight.is_bias]
        for pattern in self._own.missing([weight.name for weight in weights]):
            self.left_out(pattern, f"{model.name} has no such layer")
        own = {weight: self._own.of(weight.name) for weight in weights}
        layers = list(dict.fromkeys(_layer(weight) for weight in weights))
        ends = set() if self.ends else {*layers[:1], *layers[-1:]}
        for layer in sorted({_layer(weight) for weight, what in own.items() if what is None} & ends):
            self.left_out(layer, "it is the first or the last layer; ends:on includes them")
        for name, why in model.omitted:
            self.left_out(name, why)
        wanted = {weight: own[weight] or ("off" if _layer(weight) in ends else self.what) for weight in weights}
        self._chosen[model] = {weight: what for weight, what in wanted.items() if what != "off"}
        if self._chosen[model]:
            names = listed(_layer(weight) for weight in self._chosen[model])
            when = f" after step {self._span.first}" if self._span.first else ""
            self.changed(f"{model.name}: signs times a scale for each filter in {names}{when}")

    def acts(self, step: int) -> bool:
        """See `Stage`."""
        return step >= self._span.first

    def make(self, model: Model, weights: list[Weight], values: list[Tensor], step: int) -> list[Tensor]:
        """See `Stage`."""
        chosen = self._chosen[model]
        if model not in self._signed:
            self._signed.add(model)
            self._sign_inputs(model)
        return [
            _signs(weight, value) if weight in chosen else value
            for weight, value in zip(weights, values, strict=True)
        ]  # fmt: skip

    def loaded(self, model: Model) -> None:
        """See `Stage`."""

    def about(self, weight: Weight) -> dict[str, Any]:
        """See `Stage`."""
        what = next((chosen[weight] for chosen in self._chosen.values() if weight in chosen), None)
        return {} if weight.shown is None or what is None else {"binary": what}

    def end(self, program: Program) -> None:
        """See `Override`."""
        super().end(program)
        if self.changes and program.step < self._span.first:
            self.left_out("all of it", f"the run ended after step {program.step}, before step {self._span.first}")

    def _sign_inputs(self, model: Model) -> None:
        from torch import nn

        from wellfit.overrides.layers.hooks import SignOfInput

        signed: list[str] = []
        for weight in [weight for weight, what in self._chosen[model].items() if what == "both"]:
            module = model.module(weight)
            if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
                module.register_forward_pre_hook(SignOfInput(), with_kwargs=True)
                signed.append(_layer(weight))
            else:
                self.left_out(f"the input of {_layer(weight)}", "it is no linear layer and no convolution")
        if signed:
            self.changed(f"{model.name}: {listed(signed)} see the signs of their inputs")


def _layer(weight: Weight) -> str:
    """The name of the layer of a weight."""
    return weight.name.rpartition(".")[0] or weight.name


def _signs(weight: Weight, value: Tensor) -> Tensor:
    """sign(w) * mean |w| of each filter, over the weights that are not 0."""
    import torch

    if weight.latent is not None:
        weight.latent.clamp_(-1, 1)
    axes = [axis for axis in range(value.dim()) if axis != weight.units]
    alive = value != 0
    sizes = value.abs().sum(axes, keepdim=True) / alive.sum(axes, keepdim=True).clamp_min(1)
    return torch.where(value > 0, sizes, -sizes) * alive
