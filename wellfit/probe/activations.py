"""What flows through the layers on a watched step: forward hooks for values, tensor hooks for their gradients."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable
from threading import get_ident
from time import thread_time
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from wellfit.probe.answers import Answers
from wellfit.probe.device import Device
from wellfit.probe.internals import gate_row, norm_row, token_row
from wellfit.probe.layers import Layer, Layers
from wellfit.probe.locate import Place, user_frame
from wellfit.probe.samples import Samples
from wellfit.probe.statistics import NAN, Meter, Row

SILENT_BATCHES = 20  # a unit is silent when it gave nothing for this many sampled batches (docs/record.md)
CALLS_PER_STEP = 4  # of one layer: a cell called for each time step is looked at this often, not a thousand times
ROWS = 256  # rows of a batch looked at for statistics of units

_MEASURED = {"linear", "activation", "norm", "recurrent", "embedding", "attention"}
_RELUS = ("relu", "relu6", "threshold")
_WEIGHTED = {"linear", "recurrent"}
_GRADIENTS = {"linear", "norm", "recurrent", "attention", "embedding"}

# Saturation: |tanh| > 0.97 and |2 sigmoid - 1| > 0.97, for the function itself and for what goes into it.
_TANH_INPUT = math.atanh(0.97)
_SIGMOID_INPUT = math.log((1 + 0.97) / (1 - 0.97))


class Activations:
    """Forward and tensor hooks, registered only while a step is watched.

    Args:
        layers: the registry of modules.
        meter: computes statistics.
        emit: takes (what, subject, row).
        device: answers for tensors on an accelerator.
        step: gives the current step.
        guard: puts the fence around a function.
        spend: takes the seconds that a hook took.
    """

    def __init__(
        self,
        layers: Layers,
        meter: Meter,
        emit: Callable[[str, str, Row], None],
        device: Device,
        step: Callable[[], int],
        guard: Callable[[Any], Any],
        spend: Callable[[float], None],
    ) -> None:
        self.layers = layers
        self.meter = meter
        self.emit = emit
        self.device = device
        self.step = step
        self.spend = spend
        self.samples = Samples()
        self.owner: int | None = None
        self.stack: list[nn.Module] = []
        self.answers = Answers(self.stack)
        self.modes: dict[str, bool] = {}
        self.seen: dict[str, int] = {}
        self.on_root: Callable[[nn.Module, Layer], None] | None = None
        self.on_non_finite: Callable[[Layer, nn.Module, float, bool, Place | None], None] | None = None
        self.forbidden = False
        self._entered = 0  # where the first argument of the root that runs lies in memory
        self._previous: weakref.ref[nn.Module] | None = None  # the innermost module that ended last
        self.dirty = False  # a layer was called for the first time: declare again
        self._handles: list[Any] = []
        self._before = guard(self._before_forward)
        self._after = guard(self._after_forward)
        self._gradient = guard(self._on_gradient)
        self._profile = guard(self._on_profile)

    def begin(self) -> None:
        """Register the hooks (a watched step begins)."""
        self.seen.clear()
        self._previous = None
        self.modes.clear()
        self.stack.clear()
        self.answers.begin()
        if not self._handles and not self.forbidden:
            self._handles = [
                register_module_forward_pre_hook(self._before),
                register_module_forward_hook(self._after),
            ]

    def end(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.stack.clear()
        self.answers.begin()

    def current_layer(self) -> str | None:
        """The name of the innermost layer that is running."""
        for module in reversed(self.stack):
            layer = self.layers.get(module)
            if layer is not None:
                return layer.name
        return None

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if self.owner is not None and get_ident() != self.owner:
            return
        begin = thread_time()
        if not self.stack:
            layer = self.layers.get(module, user_frame(sys._getframe(1)))
            if layer is not None:
                if self.on_root is not None:
                    self.on_root(module, layer)
                if torch.is_grad_enabled() and self.seen.get("root " + layer.name, 0) < 1:
                    self.seen["root " + layer.name] = 1
                    self._inputs(layer, args)
                    if layer.kind != "loss":
                        self.answers.given(module, args)
        self.stack.append(module)
        self.spend(thread_time() - begin)

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.owner is not None and get_ident() != self.owner:
            return
        begin = thread_time()
        while self.stack and self.stack.pop() is not module:
            pass
        layer = self.layers.get(module)
        if layer is not None:
            if layer.order < 0:
                self.layers.first_call(layer, _first_tensor(args), _first_tensor(output))
                self.dirty = True
            if torch.is_grad_enabled():
                layer.called += 1
                count = self.seen.get(layer.name, 0)
                self.seen[layer.name] = count + 1
                if layer.kind in ("dropout", "norm"):
                    self.modes[layer.name] = module.training
                if count < CALLS_PER_STEP and layer.kind in _MEASURED:
                    self._measure(module, layer, args, output, first=count == 0)
                if not module._modules:
                    self._previous = weakref.ref(module)
        self.spend(thread_time() - begin)

    def _measure(self, module: nn.Module, layer: Layer, args: Any, output: Any, first: bool) -> None:
        tensor = _first_tensor(output)
        if tensor is None or not self.meter.takes(tensor):
            return
        if layer.kind in _GRADIENTS and self.stack and not self.seen.get("given " + layer.root):
            self.seen["given " + layer.root] = 1
            self._given(layer, _first_tensor(args))
        if not tensor.is_cpu:
            if first:
                self._measure_there(layer, tensor)
            return
        row = self._row(layer, tensor, first)
        if first:
            self.emit("activation", layer.name, row)
            self._inside(module, layer, args, tensor)
        if not math.isfinite(row[3]):
            self._not_finite(layer, module, row[3], args)
        if first and tensor.requires_grad and layer.kind in _GRADIENTS:
            tensor.register_hook(lambda gradient, layer=layer: self._gradient(layer, gradient))  # type: ignore[no-untyped-call]
            if layer.kind == "recurrent" and isinstance(module, nn.RNNBase):
                self._time_hook(module, layer, args, tensor)

    def _inside(self, module: nn.Module, layer: Layer, args: Any, output: torch.Tensor) -> None:
        """What the output does not show."""
        given = _first_tensor(args)
        if layer.kind == "norm" and (row := norm_row(module, given, self.meter)) is not None:
            self.emit("norm", layer.name, row)
        elif isinstance(module, nn.LSTM) and (gates := gate_row(module, given, output)) is not None:
            self.emit("gates", layer.name, gates)
        elif layer.kind == "embedding" and (tokens := token_row(given)) is not None:
            self.emit("tokens", layer.name, tokens)

    def _not_finite(self, layer: Layer, module: nn.Module, amax: float, args: Any) -> None:
        if self.on_non_finite is None:
            return
        finite = self._inputs_finite(args)
        before = self._previous() if self._previous is not None else None
        known = None if before is None or finite else self.layers.get(before)
        if before is not None and known is not None and known.kind not in _MEASURED:
            # All measured layers before were finite, so the bad numbers come from the one between, which is not.
            self.on_non_finite(known, before, amax, True, self.layers.place(before))
        else:
            self.on_non_finite(layer, module, amax, finite, None)

    def _measure_there(self, layer: Layer, tensor: torch.Tensor) -> None:
        """The same on an accelerator, without waiting for it."""
        units = None
        if tensor.dim() >= 2 and tensor.numel():
            if layer.ages is None and layer.activation in _RELUS:
                layer.ages = {}
            units = (layer.unit_axis, layer.ages if layer.activation in _RELUS else None, SILENT_BATCHES)
        self.device.summary(self.step(), "activation", layer.name, tensor, *_thresholds(layer), units)
        if tensor.requires_grad and layer.kind in _GRADIENTS:
            tensor.register_hook(lambda gradient, layer=layer: self._gradient(layer, gradient))  # type: ignore[no-untyped-call]

    def _row(self, layer: Layer, tensor: torch.Tensor, first: bool) -> Row:
        mode, low, high = _thresholds(layer)
        count, mean, rms, amax, flat, saturated = self.meter.summary(tensor.detach(), mode, low, high)
        if layer.activation == "sigmoid" and layer.kind == "activation":
            flat, saturated = 0.0, flat + saturated
        silent = variation = NAN
        if first and tensor.dim() >= 2 and math.isfinite(amax):
            sums = self.meter.units(tensor.detach(), layer.unit_axis, ROWS)
            if sums is not None:
                variation = sums.variation()
                if layer.activation in _RELUS:
                    units = len(sums.maximum)
                    if layer.ages is None or layer.ages[0] != units:
                        layer.ages = (units, self.meter.ages(units, SILENT_BATCHES))
                    silent = layer.ages[1].update(sums.maximum, 0.0) / units
        return (count, mean, rms, amax, flat, saturated, silent, variation)

    def _inputs(self, layer: Layer, args: Any) -> None:
        entered = _first_tensor(args)
        self.samples.trained(layer.root, entered)
        self._entered = entered.data_ptr() if entered is not None and self.meter.takes(entered) else 0
        for index, tensor in enumerate(args if isinstance(args, tuple) else ()):
            if not isinstance(tensor, torch.Tensor) or not self.meter.takes(tensor):
                continue
            tensor = tensor.detach()
            if not tensor.is_cpu:
                self.device.summary(self.step(), "input", f"{layer.root}#{index}", tensor, 0, 0.0, math.inf)
                continue
            count, mean, rms, amax, zeros, _ = self.meter.summary(tensor, 0, 0.0, math.inf)
            spread = constant = NAN
            if tensor.dim() >= 2:
                sums = self.meter.units(tensor, 1 if tensor.dim() == 4 else -1, ROWS)
                if sums is not None:
                    spread, constant = sums.feature_spread(), sums.constant_share()
            self.emit("input", f"{layer.root}#{index}", (count, mean, rms, amax, zeros, NAN, spread, constant))

    def _given(self, layer: Layer, tensor: torch.Tensor | None) -> None:
        """What the first weights of a model see, if the model changed its input before."""
        if layer.kind not in _WEIGHTED or tensor is None or not self.meter.takes(tensor):
            return
        tensor = tensor.detach()
        if tensor.data_ptr() == self._entered:
            return
        if not tensor.is_cpu:
            self.device.summary(self.step(), "given", layer.name, tensor, 0, 0.0, math.inf)
            return
        row = self.meter.summary(tensor, 0, 0.0, math.inf)
        self.emit("given", layer.name, (*row[:5], NAN, NAN, NAN))

    def _inputs_finite(self, args: Any) -> bool:
        tensors = [t for t in (args if isinstance(args, tuple) else ()) if isinstance(t, torch.Tensor)]
        readable = [t.detach() for t in tensors if t.is_cpu and self.meter.takes(t)]
        return all(math.isfinite(self.meter.summary(t, 0, -1.0, math.inf)[3]) for t in readable)

    def _on_gradient(self, layer: Layer, gradient: Any) -> None:
        begin = thread_time()
        if isinstance(gradient, torch.Tensor) and self.meter.takes(gradient):
            if not gradient.is_cpu:
                self.device.summary(self.step(), "activation_gradient", layer.name, gradient, 0, 0.0, math.inf)
                return
            row = self.meter.summary(gradient.detach(), 0, 0.0, math.inf)
            self.emit("activation_gradient", layer.name, (*row[:5], NAN, NAN, NAN))
        self.spend(thread_time() - begin)

    def _time_hook(self, module: nn.RNNBase, layer: Layer, args: Any, output: torch.Tensor) -> None:
        """Credit back in time shows in the gradient of the layer's input; without one, in that of its output."""
        given = args[0] if args and isinstance(args[0], torch.Tensor) else None
        seen = given if given is not None and given.requires_grad else output
        if seen.dim() == 3:
            axis = 1 if module.batch_first else 0
            seen.register_hook(lambda gradient: self._profile(layer, gradient, axis))  # type: ignore[no-untyped-call]

    def _on_profile(self, layer: Layer, gradient: Any, axis: int) -> None:
        begin = thread_time()
        if isinstance(gradient, torch.Tensor) and self.meter.takes(gradient):
            sums = self.meter.units(gradient.detach().contiguous(), axis, 0)
            if sums is not None and len(sums.maximum) >= 8:
                self.emit("time_profile", layer.name, sums.profile(8))
        self.spend(thread_time() - begin)


def _thresholds(layer: Layer) -> tuple[int, float, float]:
    """(mode, low, high) of the kernel for what the layer's activation function flattens and saturates."""
    itself = layer.kind == "activation"
    match layer.activation:
        case "relu" | "relu6" | "threshold":
            return (0, 0.0, math.inf) if itself else (1, 0.0, math.inf)
        case "tanh":
            return (0, -1.0, 0.97 if itself else _TANH_INPUT)
        case "sigmoid":
            return (0, 0.015, 0.985) if itself else (0, -1.0, _SIGMOID_INPUT)
        case _:
            return (0, 0.0, math.inf)


def _first_tensor(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    return None
