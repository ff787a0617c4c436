"""Parameters, their gradients and their updates, around an optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from wellfit.probe.device import Device
from wellfit.probe.layers import Layers
from wellfit.probe.locate import Place, location
from wellfit.probe.optimizers import Held, Optimizers
from wellfit.probe.statistics import NAN, Meter, Row

SAMPLES = 1024  # elements of a tensor kept from before the step (relative standard error of an rms: 2.2 %)
TENSORS = 1024  # looked at in one step; with more, each watched step takes the next part


class Weights:
    """Measures parameters and gradients just before a step, and the updates just after it.

    Args:
        layers: gives the names of parameters.
        meter: computes statistics.
        emit: takes (what, subject, row).
        device: answers for tensors on an accelerator.
        declare: writes a declaration.
    """

    def __init__(
        self,
        layers: Layers,
        meter: Meter,
        emit: Callable[[str, str, Row], None],
        device: Device,
        declare: Callable[[dict[str, Any]], None],
    ) -> None:
        self.layers = layers
        self.meter = meter
        self.emit = emit
        self.device = device
        self.declare = declare
        self.initial: dict[str, dict[str, float]] = {}
        self.on_non_finite: Callable[[Held], None] | None = None
        self._taken: tuple[list[torch.Tensor], list[torch.Tensor | None], list[str], Any] | None = None
        self._missing: dict[int, tuple[str, ...]] = {}

    def before(self, held: Held, step: int) -> None:
        """Just before the step: weights and gradients in one pass; a sample of the weights is kept."""
        chosen = self._chosen(held)
        with_gradient = [(p, g, n) for p, n in chosen if (g := _gradient(p)) is not None and self.meter.takes(p)]
        self.no_gradient(held, step)
        there = [(p, g, n) for p, g, n in with_gradient if not p.is_cpu and self.meter.takes(g)]
        if there:
            self.device.before_step(step, *zip(*there, strict=True))
        with_gradient = [entry for entry in with_gradient if entry[0].is_cpu]
        if not with_gradient:
            self._taken = None
            return
        parameters = [p.detach() for p, _, _ in with_gradient]
        gradients = [g for _, g, _ in with_gradient]
        names = [n for _, _, n in with_gradient]
        dense = [self.meter.takes(g) for g in gradients]
        limits = [_half_limits(g.dtype) for g in gradients]
        rows = self.meter.summaries(
            parameters + [g if ok else p for g, ok, p in zip(gradients, dense, parameters, strict=True)],
            [0] * (2 * len(parameters)),
            [0.0] * len(parameters) + [low for low, _ in limits],
            [math.inf] * len(parameters) + [high for _, high in limits],
        )
        for name, row in zip(names, rows, strict=False):
            self._remember_initial(name, row)
            self.emit("parameter", name, (*row[:5], NAN, NAN, NAN))
        for name, row, ok in zip(names, rows[len(parameters) :], dense, strict=True):
            if ok:
                self.emit("gradient", name, (*row, NAN, NAN))
                if not math.isfinite(row[3]) and self.on_non_finite is not None:
                    self.on_non_finite(held)
        snapshot = self.meter.take(parameters, SAMPLES)
        self._taken = (parameters, [g if ok else None for g, ok in zip(gradients, dense, strict=True)], names, snapshot)

    def after(self) -> None:
        """Just after the step: what it changed."""
        self.device.after_step()
        if self._taken is None:
            return
        parameters, gradients, names, snapshot = self._taken
        self._taken = None
        for name, row in zip(names, self.meter.change(parameters, gradients, snapshot), strict=True):
            self.emit("update", name, (*row, NAN))

    def _chosen(self, held: Held) -> list[tuple[torch.Tensor, str]]:
        pairs = list(zip(held.parameters, held.names, strict=True))
        if len(pairs) <= TENSORS:
            return pairs
        begin, held.offset = held.offset, (held.offset + TENSORS) % len(pairs)
        return (pairs + pairs)[begin : begin + TENSORS]

    def no_gradient(self, held: Held, step: int) -> None:
        """Say which parameters have no gradient at the step, when that changed."""
        missing = tuple(
            n for p, n in zip(held.parameters, held.names, strict=True) if p.requires_grad and p.grad is None
        )
        if missing != self._missing.get(held.id, ()):
            self._missing[held.id] = missing
            self.declare(
                {
                    "type": "event", "event": "no-gradient", "step": step, "optimizer": held.id,
                    "parameters": list(missing[:256]), "count": len(missing), "total": len(held.parameters),
                }
            )  # fmt: skip

    def _remember_initial(self, name: str, row: Sequence[float]) -> None:
        if name not in self.initial:
            _, mean, rms, amax = row[:4]
            variance = rms * rms - mean * mean
            self.initial[name] = {
                "std": math.sqrt(max(variance, 0.0)) if variance == variance else NAN,
                "rms": rms,
                "amax": amax,
            }

    def declare_parameters(self, optimizers: Optimizers) -> None:
        """Every parameter that has a name, and which optimizer holds it."""
        by_address, by_name = optimizers.holders()
        places = {layer.name: self.layers.place(module) for module, layer in self.layers.all()}
        for reference, name, layer in list(self.layers.parameter_names.values()):
            parameter = reference()
            if parameter is None or isinstance(parameter, torch.nn.parameter.UninitializedParameter):
                continue
            if name not in self.initial and parameter.is_cpu and self.meter.takes(parameter):
                self._remember_initial(name, self.meter.summary(parameter.detach(), 0, 0.0, math.inf))
            holder = by_address.get(id(parameter), by_name.get(name))
            self._declare_parameter(parameter, name, layer, holder, places.get(layer))

    def _declare_parameter(
        self, parameter: torch.Tensor, name: str, layer: str, optimizer: int | None, place: Place | None
    ) -> None:
        shape = list(parameter.shape)
        self.declare(
            {
                "type": "parameter", "name": name, "layer": layer, "shape": shape,
                "dtype": str(parameter.dtype).removeprefix("torch."), "requires_grad": parameter.requires_grad,
                "optimizer": optimizer, "location": location(place), "initial": self.initial.get(name),
                "fan_in": math.prod(shape[1:]) if len(shape) > 1 else None, "device": str(parameter.device),
            }
        )  # fmt: skip


def _gradient(parameter: torch.Tensor) -> torch.Tensor | None:
    gradient = parameter.grad
    if gradient is None:
        return None
    if gradient.layout is torch.sparse_coo:
        return gradient._values().detach()
    return gradient.detach()


def _half_limits(dtype: torch.dtype) -> tuple[float, float]:
    if dtype in (torch.float16, torch.bfloat16):
        info = torch.finfo(dtype)
        return info.tiny, info.max / 2
    return 0.0, math.inf
