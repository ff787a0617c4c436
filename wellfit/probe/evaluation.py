"""Evaluation passes: which model ran without gradient, in which mode, and what was still random in it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from wellfit.probe.layers import Layers
from wellfit.probe.locate import location, user_frame, user_place
from wellfit.probe.samples import Samples
from wellfit.probe.statistics import Meter, shape_of

CALLS = 3  # forward calls of root modules looked at in one evaluation
PASSES = 200  # evaluations looked at closely; after that only their losses
IDLE = 500  # blocks under no_grad that were no evaluation; a program that has more has one in each step


class Evaluations:
    """Looks at the first forward calls after training paused, and at nothing else.

    Args:
        layers: gives names.
        declare: writes an event.
        guard: puts the fence around a function.
        samples: told of what models are given.
        meter: computes statistics.
    """

    def __init__(
        self,
        layers: Layers,
        declare: Callable[[dict[str, Any]], None],
        guard: Callable[[Any], Any],
        samples: Samples,
        meter: Meter,
    ) -> None:
        self.layers = layers
        self.samples = samples
        self.meter = meter
        self.declare = declare
        self.open = False
        self.forbidden = False
        self.step = 0
        self.passes = 0
        self._idle = 0
        self._depth: list[nn.Module] = []
        self._owner = 0  # the thread of the call that is looked at
        self._calls = 0
        self._handles: list[Any] = []
        self._originals: dict[str, Any] = {}
        self._dropout: list[dict[str, Any]] = []
        self._evaluated: dict[int, bool] = {}  # root id -> whether it was put in eval mode as a whole
        self._mode_layers: list[tuple[str, bool]] = []
        self._before = guard(self._before_forward)
        self._after = guard(self._after_forward)
        self._guarded_note = guard(self._note)

    def begin(self, step: int, deliberate: bool) -> None:
        """Training paused: look at the next forward calls.

        Args:
            deliberate: a model was put in eval mode; else gradient was switched off, for whatever reason.
        """
        if self.open or self.forbidden or self.passes >= PASSES or (self._idle >= IDLE and not deliberate):
            return
        self.open = True
        self.step = step
        self._calls = 0
        self._depth.clear()
        self._handles = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after)]
        for name in ("dropout", "scaled_dot_product_attention"):
            self._originals[name] = getattr(F, name)
            setattr(F, name, self._wrapped(name, self._originals[name]))

    def end(self) -> None:
        """Training goes on."""
        if not self.open:
            return
        self.open = False
        self.passes += self._calls > 0
        self._idle += self._calls == 0
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for name, original in self._originals.items():
            setattr(F, name, original)
        self._originals.clear()

    def _wrapped(self, name: str, original: Any) -> Any:
        note = self._guarded_note

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            note(name, args, kwargs)
            return original(*args, **kwargs)

        return wrapper

    def _note(self, name: str, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled() or not self._depth:
            return
        if any(
            self.layers.get(m) is not None and isinstance(m, nn.modules.dropout._DropoutNd) for m in self._depth[-1:]
        ):
            return
        if name == "dropout":
            p = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            active = kwargs.get("training", args[2] if len(args) > 2 else True)
        else:
            p = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            active = p > 0
        if active and p > 0 and len(self._dropout) < 20:
            place = user_place(3)
            self._dropout.append({"function": name, "p": float(p), **(location(place) or {"file": None, "line": None})})

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if not self._depth:
            self._dropout = []
            self._mode_layers = []
            self._owner = get_ident()
        self._depth.append(module)

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        if get_ident() != self._owner or not any(module is one for one in self._depth):
            return  # of another thread, or its call had begun before we looked
        while self._depth and self._depth.pop() is not module:
            pass
        layer = self.layers.get(module, user_frame(sys._getframe(1)) if not self._depth else None)
        if layer is None:
            return
        if layer.kind in ("dropout", "norm"):
            self._mode_layers.append((layer.name, module.training))
        if self._depth:
            return
        if torch.is_grad_enabled():
            self.end()  # it was no evaluation: weights were averaged, say
            return
        first = args[0] if isinstance(args, tuple) and args and isinstance(args[0], torch.Tensor) else None
        self.samples.evaluated(layer.root, first)
        self.declare(
            {
                "type": "event", "event": "evaluation", "step": self.step,
                "root": layer.root, "training": module.training,
                "location": location(user_place(3)), "functional_dropout": self._dropout,
                "training_layers": sorted({n for n, training in self._mode_layers if training}),
                "eval_layers": sorted({n for n, training in self._mode_layers if not training}),
                "batch": shape_of(first) if first is not None else None,
                # What a part of the model is given does not compare with what the whole is given in training.
                "input": self._numbers(first) if layer.name == layer.root else [],
            }
        )  # fmt: skip
        self._calls += 1
        if self._calls >= CALLS:
            self.end()

    def _numbers(self, first: torch.Tensor | None) -> list[float]:
        """count, mean, rms and amax of the first input; none if it holds no real numbers on the CPU."""
        if first is None or not first.is_cpu or not self.meter.takes(first) or not first.numel():
            return []
        return [float(number) for number in self.meter.summary(first.detach(), 0, 0.0, math.inf)[:4]]
