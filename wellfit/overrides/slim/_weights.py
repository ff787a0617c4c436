"""The parameters that are made small, and the latent values behind them."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from wellfit.overrides.model._weights import is_computed_from, is_weight
from wellfit.overrides.tree import is_norm

_INPUT_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Weight:
    """A parameter that is made small.

    Between two steps the parameter holds `shown`; an optimizer steps on `latent`.

    Attributes:
        name: its first name in the model.
        is_bias: it is one of the small vectors beside the weights.
        layer: the class of its module.
        units: the axis of its filters, heads or rows.
        inputs: the axis along which products are summed up.
        latent: the values that an optimizer changes; None while nothing is made of them.
        shown: what was made of them.
        stepping: an optimizer steps now: the parameter holds the latent values.
    """

    def __init__(self, name: str, parameter: nn.Parameter, module: nn.Module, is_bias: bool) -> None:
        self.name = name
        self.is_bias = is_bias
        self.layer = type(module).__name__
        first = isinstance(module, _INPUT_FIRST)
        self.units, self.inputs = (1, 0) if first else (0, -1 if parameter.dim() <= 2 else 1)
        self.latent: torch.Tensor | None = None
        self.shown: torch.Tensor | None = None
        self.stepping = False
        self._parameter = weakref.ref(parameter)

    @property
    def parameter(self) -> nn.Parameter | None:
        """The parameter; None where the script has thrown it away."""
        return self._parameter()

    @property
    def data(self) -> torch.Tensor:
        """Its numbers, past autograd and the version counter: a graph that holds them is none of our business."""
        parameter = self._parameter()
        assert parameter is not None
        return parameter.data

    @property
    def gradient(self) -> torch.Tensor | None:
        """Its gradient, to be changed in place; None where it has none, or a sparse one."""
        parameter = self._parameter()
        gradient = None if parameter is None else parameter.grad
        return gradient.detach() if gradient is not None and gradient.layout is torch.strided else None

    def values(self) -> torch.Tensor:
        """The latent values, or the parameter's where there are none. Not to be written to."""
        return self.data if self.latent is None else self.latent

    def show(self, value: torch.Tensor) -> None:
        """Let the parameter hold this until the next step; what it holds now is latent if nothing is yet."""
        if self.latent is None:
            self.latent = self.data.clone()
        self.shown = value if value is not self.latent else value.clone()
        self.data.copy_(self.shown)
        self.stepping = False

    def enter_step(self) -> None:
        """Let the parameter hold the latent values; what the script has changed meanwhile is latent from now on."""
        if self.latent is None or self.stepping:
            return
        self.follow()
        self.data.copy_(self.latent)
        self.stepping = True

    def follow(self) -> bool:
        """Take over what the script has written into the parameter since it was shown; whether it has."""
        assert self.latent is not None and self.shown is not None
        data = self.data
        if self.latent.device != data.device or self.latent.dtype != data.dtype:
            self.latent, self.shown = self.latent.to(data), self.shown.to(data)
        if torch.equal(data, self.shown):
            return False
        self.latent = torch.where(data == self.shown, self.latent, data)
        return True

    def leave_step(self) -> None:
        """The optimizer, or a part of its step, has changed the latent values, which the parameter holds."""
        if self.stepping and self.latent is not None:
            self.latent.copy_(self.data)
            self.stepping = False

    def replaced(self) -> bool:
        """Whether the script has put other values in the place of what was shown; they are latent then."""
        if self.latent is None or self.stepping or torch.equal(self.data, self.shown):  # type: ignore[arg-type]
            return False
        self.latent = self.data.clone()
        return True


class Model:
    """A model whose weights are made small.

    Attributes:
        omitted: parameters of two dimensions and more that are left alone, with the reason.
    """

    def __init__(self, root: nn.Module, known: Any) -> None:
        self.name = type(root).__name__
        self._weights: list[Weight] = []
        self.omitted: list[tuple[str, str]] = []
        self._root = weakref.ref(root)
        seen: set[int] = set()
        for layer, module in root.named_modules():
            for own, parameter in module._parameters.items():
                if parameter is None or id(parameter) in seen or parameter in known:
                    continue
                seen.add(id(parameter))
                name = f"{layer}.{own}".lstrip(".")
                why = _obstacle(module, own, parameter)
                if why is None:
                    self._weights.append(Weight(name, parameter, module, parameter.dim() < 2))
                elif why:
                    self.omitted.append((name, why))

    @property
    def weights(self) -> list[Weight]:
        """In the order of its definition; a shared parameter is there once."""
        return [weight for weight in self._weights if weight.parameter is not None]

    def module(self, weight: Weight) -> nn.Module | None:
        """The module that holds a weight; None where it is gone."""
        root, layer = self._root(), weight.name.rpartition(".")[0]
        try:
            return root.get_submodule(layer) if root is not None else None
        except AttributeError:
            return None

    @property
    def alive(self) -> bool:
        """Whether the model is still there."""
        return self._root() is not None


def _obstacle(module: nn.Module, name: str, parameter: nn.Parameter) -> str | None:
    """Why a parameter is left alone; empty if nobody would expect anything else, None if it is not left alone."""
    if is_norm(module) or is_lazy(parameter):
        return ""
    if parameter.dim() < 2:
        own = any(other is not None and other.dim() >= 2 for other in module._parameters.values())
        return None if "bias" in name and own and parameter.is_floating_point() else ""
    if is_computed_from(module):
        return "the weight of the layer is computed from it and other parameters"
    if not parameter.is_floating_point():
        return "it holds no real numbers"
    if parameter.layout is not torch.strided:
        return "it is sparse"
    if not is_weight(module, name) or (type(module).__module__.startswith("torch.nn") and "weight" not in name):
        return "it is not the weight of a layer"
    return None
