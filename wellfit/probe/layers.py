"""The user's modules: which there are, what kind they are, what they are called, and where they were made."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import nn

from wellfit.probe.locate import Place, location, user_frame, variable_name
from wellfit.probe.statistics import shape_of

_ACTIVATIONS = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "RReLU": "rrelu", "ELU": "elu",
    "CELU": "celu", "SELU": "selu", "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Softplus": "softplus",
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Hardtanh": "hardtanh", "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish", "LogSigmoid": "logsigmoid", "Softsign": "softsign", "Softmax": "softmax",
    "LogSoftmax": "log_softmax", "Softmin": "softmin", "Softmax2d": "softmax", "Threshold": "threshold", "GLU": "glu",
}  # fmt: skip

_ATTRIBUTES = (
    "in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "p", "num_features", "eps",
    "momentum", "affine", "track_running_stats", "negative_slope", "input_size", "hidden_size", "num_layers",
    "batch_first", "bidirectional", "num_embeddings", "embedding_dim", "dim", "normalized_shape", "num_heads",
    "dropout", "inplace",
)  # fmt: skip

SEARCHES = 50  # for modules that are called and not known yet
_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}


def kind_of(module: nn.Module) -> str:
    """One of the layer kinds of docs/record.md."""
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd, nn.Bilinear)):
        return "linear"
    if type(module).__name__ in _ACTIVATIONS:
        return "activation"
    if isinstance(
        module,
        (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm),
    ):
        return "norm"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "recurrent"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return "dropout"
    if isinstance(module, nn.MultiheadAttention):
        return "attention"
    if isinstance(module, nn.modules.loss._Loss):
        return "loss"
    if "Pool" in type(module).__name__:
        return "pooling"
    return "container" if module._modules else "other"


class Layer:
    """What the probe knows of one module."""

    __slots__ = ("activation", "activation_place", "ages", "called", "input_shape", "kind", "name", "order",
                 "output_dtype", "reference", "registered", "root", "saturates", "unit_axis")  # fmt: skip

    def __init__(self, module: nn.Module, name: str, root: str, registered: bool) -> None:
        self.reference = weakref.ref(module)
        self.name = name
        self.root = root
        self.registered = registered
        self.kind = kind_of(module)
        self.order = -1
        self.called = 0
        # The function that follows: for an activation module, itself.
        self.activation = _ACTIVATIONS.get(type(module).__name__)
        self.activation_place: Place | None = None
        self.unit_axis = 1 if isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)) else -1
        self.ages: Any = None
        self.input_shape: list[int] | None = None  # of the first call
        self.output_dtype: str | None = None


class Layers:
    """The registry of modules. Modules are never written to: what is known about them is kept beside them."""

    def __init__(self) -> None:
        self._births: dict[int, tuple[weakref.ref[nn.Module], Place | None]] = {}
        self._layers: dict[int, Layer] = {}
        self._roots: dict[int, tuple[weakref.ref[nn.Module], str]] = {}
        self._calls = 0
        self._searches = 0
        self.parameter_names: dict[int, tuple[weakref.ref[torch.Tensor], str, str]] = {}

    def born(self, module: nn.Module) -> None:
        """A module's constructor runs: remember the line that asked for it, not the constructor's own."""
        key = id(module)
        births = self._births
        frame = user_frame(sys._getframe(1))
        while frame is not None and frame.f_code.co_name == "__init__" and _first_argument(frame) is module:
            frame = user_frame(frame.f_back)
        place = None if frame is None else (os.path.abspath(frame.f_code.co_filename), frame.f_lineno)
        births[key] = (weakref.ref(module, lambda _, key=key: births.pop(key, None)), place)  # type: ignore[misc]

    def place(self, module: nn.Module) -> Place | None:
        """Where the module was made."""
        birth = self._births.get(id(module))
        return birth[1] if birth is not None and birth[0]() is module else None

    def alive(self) -> list[nn.Module]:
        """All modules made since torch was imported that are still there."""
        return [module for reference, _ in list(self._births.values()) if (module := reference()) is not None]

    def search(self, frame: FrameType | None) -> bool:
        """Look for modules that are not known yet, unless that was done too often; whether it was done."""
        if self._searches >= SEARCHES:
            return False
        self.find_roots(frame)
        return True

    def find_roots(self, frame: FrameType | None) -> None:
        """Name every module that no other module holds, and all within.

        With one root its name is left out ("fc1"); with several it is put in front ("generator.fc1").
        """
        self._searches += 1
        alive = self.alive()
        held = {id(child) for module in alive for child in module._modules.values() if child is not None}
        roots = [m for m in alive if id(m) not in held and kind_of(m) != "loss" and _has_parameters(m)]
        several = len(roots) + len(self._roots) > 1
        for root in roots:
            self.add_root(root, frame, several)

    def add_root(self, root: nn.Module, frame: FrameType | None, prefixed: bool) -> str:
        """Name a root and everything in it; returns its name."""
        known = self._roots.get(id(root))
        if known is not None and known[0]() is root:
            return known[1]
        inner = root
        while (attribute := _WRAPPERS.get(type(inner).__name__)) and isinstance(
            wrapped := inner._modules.get(attribute), nn.Module
        ):
            inner = wrapped
        name = variable_name(root, frame) or variable_name(inner, frame) or type(inner).__name__
        taken = {n for reference, n in self._roots.values() if reference() is not None}
        name = next(n for i in range(1, 10_000) if (n := name if i == 1 else f"{name}{i}") not in taken)
        self._roots[id(root)] = (weakref.ref(root), name)
        self._name_within(inner, name, prefixed)
        if inner is not root:
            self._layers[id(root)] = self._layers[id(inner)]
        return name

    def _name_within(self, root: nn.Module, root_name: str, prefixed: bool) -> None:
        for path, module in root.named_modules():
            full = (f"{root_name}.{path}" if path else root_name) if prefixed else (path or root_name)
            layer = self._layers.get(id(module))
            if layer is None or layer.reference() is not module:
                self._layers[id(module)] = Layer(module, full, root_name, bool(path) or bool(module._modules))
            for name, parameter in module._parameters.items():
                if parameter is not None and not self.knows_parameter(parameter):
                    shown = f"{full}.{name}" if path or prefixed else name
                    self.parameter_names[id(parameter)] = (weakref.ref(parameter), shown, full)

    def knows_parameter(self, parameter: torch.Tensor) -> bool:
        """Whether the parameter has a name."""
        known = self.parameter_names.get(id(parameter))
        return known is not None and known[0]() is parameter

    def parameter(self, parameter: torch.Tensor) -> tuple[str, str] | None:
        """(name, layer name) of a parameter, or None if no module that we know holds it."""
        known = self.parameter_names.get(id(parameter))
        return (known[1], known[2]) if known is not None and known[0]() is parameter else None

    def rename_parameters(self) -> None:
        """Look again: parameters may have been added to or replaced in modules already known."""
        for reference, name in list(self._roots.values()):
            root = reference()
            if root is None:
                continue
            while (attribute := _WRAPPERS.get(type(root).__name__)) and isinstance(
                wrapped := root._modules.get(attribute), nn.Module
            ):
                root = wrapped
            self._name_within(root, name, self._is_prefixed(root, name))

    def _is_prefixed(self, root: nn.Module, name: str) -> bool:
        child = next((path for path, _ in root.named_modules() if path), None)
        layer = None if child is None else self._layers.get(id(root.get_submodule(child)))
        return layer is not None and layer.name != child

    def get(self, module: nn.Module, frame: FrameType | None = None) -> Layer | None:
        """The layer of a module that is being called; None while it cannot be named."""
        layer = self._layers.get(id(module))
        if layer is not None and layer.reference() is module:
            return layer
        if kind_of(module) == "loss" or not self.search(frame):  # a loss function is called at each step
            return None
        layer = self._layers.get(id(module))
        if layer is not None and layer.reference() is module:
            return layer
        if _has_parameters(module):
            self.add_root(module, frame, bool(self._roots))
            return self._layers.get(id(module))
        return None

    def first_call(self, layer: Layer, given: Any, output: Any) -> None:
        """Number the layers in the order of their first call, and note what that was given and gave."""
        layer.order = self._calls
        self._calls += 1
        if isinstance(given, torch.Tensor):
            layer.input_shape = shape_of(given)
        if isinstance(output, torch.Tensor):
            layer.output_dtype = str(output.dtype).removeprefix("torch.")

    def name_of(self, module: nn.Module) -> str:
        """The name of a module, or of its class while it has none."""
        layer = self._layers.get(id(module))
        return layer.name if layer is not None and layer.reference() is module else type(module).__name__

    def all(self) -> Iterator[tuple[nn.Module, Layer]]:
        """Every named module that is still there."""
        for layer in list(self._layers.values()):
            module = layer.reference()
            if module is not None:
                yield module, layer

    def roots(self) -> list[tuple[nn.Module, str]]:
        """The roots that are still there, with their names."""
        return [(module, name) for reference, name in self._roots.values() if (module := reference()) is not None]

    def declaration(self, module: nn.Module, layer: Layer) -> dict[str, Any]:
        """The layer as it stands in the record."""
        attributes: dict[str, Any] = {}
        for name in _ATTRIBUTES:
            value = module.__dict__.get(name)
            if isinstance(value, (bool, int, float, str)):
                attributes[name] = value
            elif isinstance(value, tuple) and all(isinstance(v, int) for v in value):
                attributes[name] = list(value)
        own = module._parameters  # that of a scripted module is no dict
        attributes["bias"] = "bias" in own and own["bias"] is not None
        known = [self.parameter(p) for p in module._parameters.values() if p is not None]
        applied = layer.activation_place or (self.place(module) if layer.kind == "activation" else None)
        return {
            "type": "layer", "name": layer.name, "class": type(module).__name__, "kind": layer.kind,
            "location": location(self.place(module)), "root": layer.root, "order": layer.order,
            "parameters": [names[0] for names in known if names is not None], "attributes": attributes,
            "activation": layer.activation, "activation_location": location(applied), "registered": layer.registered,
            "input_shape": layer.input_shape, "output_dtype": layer.output_dtype,
        }  # fmt: skip


def _first_argument(frame: FrameType) -> object:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[0]) if names else None


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
