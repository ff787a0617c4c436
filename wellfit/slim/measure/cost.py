"""What a forward pass takes: parameters, multiply-adds and bytes, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import evaluating, plain_operations, tensors_in
from wellfit.slim.measure.size import bytes_of


@dataclass(frozen=True)
class LayerCost:
    """One layer: a module that holds parameters of its own or computes products.

    Args:
        name: of the module; empty for the model itself.
        kind: its class.
        parameters: those that it holds itself; one that is shared counts where it is held first.
        multiply_adds: of products of matrices and convolutions in one forward pass, in all its calls.
        weight_bytes: of its own parameters and buffers.
        output_bytes: of the tensors that it returned, in all its calls.
        calls: how often it was called.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int
    weight_bytes: int
    output_bytes: int
    calls: int


@dataclass(frozen=True)
class Cost:
    """A forward pass of one batch.

    Args:
        layers: in the order of the model.
        unused: names of layers that were not called, and whose parameters and buffers nothing else used.
    """

    layers: tuple[LayerCost, ...]
    unused: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of all layers."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Of all layers."""
        return sum(layer.weight_bytes for layer in self.layers)


def cost(model: nn.Module, inputs: Inputs) -> Cost:
    """Count what one forward pass takes, in evaluation mode; the model is as it was afterwards.

    Products are counted where torch computes them, so functional calls and attention count too, in the layer that calls
    them. What a compiled kernel of someone else's does is not seen.

    Args:
        model: on any device, on which the inputs must lie too.
        inputs: one batch.
    """
    count = _Counting(model)
    with evaluating(model), count.hooked(), plain_operations(), count:
        inputs.copied().call(model)
    layers, unused, seen = [], [], set[int]()
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        new = [tensor for tensor in own if id(tensor) not in seen]
        seen.update(id(tensor) for tensor in own)
        done = count.multiply_adds.get(id(module), 0)
        if not own and not done:
            continue
        calls = count.calls.get(id(module), 0)
        if not calls and not any(id(tensor) in count.used for tensor in own):
            unused.append(name)
        layers.append(
            LayerCost(
                name,
                type(module).__name__,
                sum(tensor.numel() for tensor in new if isinstance(tensor, nn.Parameter)),
                done,
                sum(bytes_of(tensor) for tensor in new),
                count.output_bytes.get(id(module), 0),
                calls,
            )
        )
    return Cost(tuple(layers), tuple(unused))


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products that are computed while it is on, each for the innermost module that runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._running: list[nn.Module] = []
        self.multiply_adds: dict[int, int] = {}
        self.output_bytes: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.used: set[int] = set()
        self._own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The model's modules say when they begin and end."""
        handles = []
        for module in self._model.modules():
            handles.append(module.register_forward_pre_hook(self._begin))
            handles.append(module.register_forward_hook(self._end, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._running.append(module)
        self.calls[id(module)] = self.calls.get(id(module), 0) + 1

    def _end(self, module: nn.Module, args: Any, result: Any) -> None:
        self._running.pop()
        total = sum(bytes_of(tensor) for tensor in tensors_in(result))
        self.output_bytes[id(module)] = self.output_bytes.get(id(module), 0) + total

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.used.update(self._own.intersection(map(id, tensors_in([args, kwargs or {}]))))
        if count := _COUNTED.get(func._schema.name):
            holder = self._running[-1] if self._running else self._model
            done = count(args, kwargs or {}, result)
            self.multiply_adds[id(holder)] = self.multiply_adds.get(id(holder), 0) + done
        return result


def _product(first: int) -> Any:
    """[..., m, k] by [..., k, n], from the argument at this place on: as many numbers as come out, k times each."""
    return lambda args, kwargs, result: result.numel() * args[first].shape[-1]


def _convolution(args: Any, kwargs: Mapping[str, Any], result: torch.Tensor) -> int:
    """Each number that comes out (transposed: that goes in) meets one filter."""
    given, weight, transposed = args[0], args[1], args[6]
    return int((given if transposed else result).numel() * math.prod(weight.shape[1:]))


def _fused_attention(args: Any, kwargs: Mapping[str, Any], result: Any) -> int:
    query, key, value = args[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return int(pairs * (query.shape[-1] + value.shape[-1]))


_COUNTED = {
    "aten::mm": _product(0),
    "aten::bmm": _product(0),
    "aten::addmm": _product(1),
    "aten::baddbmm": _product(1),
    "aten::mv": _product(0),
    "aten::dot": _product(0),
    "aten::convolution": _convolution,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _fused_attention,
    "aten::_scaled_dot_product_flash_attention": _fused_attention,
    "aten::_scaled_dot_product_efficient_attention": _fused_attention,
}
