"""A linear layer whose weight is a tensor of another class, kept in the plain tensors that it consists of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wellfit.slim.layers.prepared import Prepared


class FlattenedLinear(Prepared):
    """`linear(x, weight, bias)`, where `weight` is put together from buffers, by the class's `__tensor_unflatten__`.

    State: a buffer for each plain tensor inside the weight, named by the path to it; `bias`.
    """

    def __init__(self, weight: Any, layer: nn.Linear) -> None:
        """
        Args:
            weight: what takes the place of the weight of `layer`.
        """
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._plan = self._taken_apart(weight, "weight")
        shift = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.register_parameter("bias", shift)

    def _taken_apart(self, tensor: Any, name: str) -> Any:
        """How to put it together: (buffer, dtype), or (class, parts by attribute, context, size, stride)."""
        if not hasattr(tensor, "__tensor_flatten__"):
            plain = tensor.detach().clone()
            # numpy has no float8, so a file gets its bits.
            self.register_buffer(name, plain.view(torch.uint8) if "float8" in str(plain.dtype) else plain)
            return name, plain.dtype
        attributes, context = tensor.__tensor_flatten__()
        parts = {each: self._taken_apart(getattr(tensor, each), f"{name}_{each}") for each in attributes}
        return type(tensor), parts, context, tensor.size(), tensor.stride()

    def _together(self, plan: Any) -> torch.Tensor:
        if isinstance(plan[0], str):
            name, dtype = plan
            found: torch.Tensor = self.get_buffer(name)
            return found if found.dtype == dtype else found.view(dtype)
        kind, parts, context, size, stride = plan
        made: torch.Tensor = kind.__tensor_unflatten__(
            {name: self._together(part) for name, part in parts.items()}, context, size, stride
        )
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., inputs)."""
        return functional.linear(x, self._kept("weight", lambda: self._together(self._plan)), self.bias)

    def extra_repr(self) -> str:
        kind = self._plan[0].__name__
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, weight={kind}"
