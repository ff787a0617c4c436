"""Backward calls: where they are, what loss they were given, the graph behind it, the first that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch

from wellfit.probe import graph, nonfinite
from wellfit.probe.device import sent
from wellfit.probe.layers import Layer, Layers
from wellfit.probe.locate import Place, is_user_file, location, user_frame, user_place
from wellfit.probe.moment import Moment
from wellfit.probe.optimizers import Held
from wellfit.probe.statistics import Meter, is_real
from wellfit.probe.trace import Trace

TRACED = 2  # backward calls of each place whose graph is taken
UNTRACED = 4  # graphs without lines (no torch function mode reached the loss) after which no more is tried

NO_SITE = (-1, None)
_TENSOR_BACKWARD = torch.Tensor.backward.__code__

Event = Callable[..., None]
LateRow = tuple[int, int, int, int, float]  # type, a, b, step, seconds


class Backwards:
    """What is known of the places that call backward.

    Args:
        layers, meter, trace, now: of the probe.
        declare: writes a declaration.
        event: writes an event: (name, fields).
        count_event: the same for one that may come in every step: (name, key, fields).
    """

    def __init__(
        self,
        layers: Layers,
        meter: Meter,
        trace: Trace,
        now: Moment,
        declare: Callable[[dict[str, Any]], None],
        event: Event,
        count_event: Event,
    ) -> None:
        self.layers = layers
        self.meter = meter
        self.trace = trace
        self.now = now
        self.declare = declare
        self.event = event
        self.count_event = count_event
        self.packed = False  # the user keeps saved tensors in a form of their own (activation checkpoints)
        self.said = False  # the first number that is not finite was told
        self._sites: dict[Place | None, int] = {}
        # Calls through `Tensor.backward` in the user's files: instruction -> site.
        self.quick: dict[tuple[int, int], tuple[int, CodeType]] = {}
        self._traced: dict[int, int] = {}
        self._untraced = 0  # graphs since the last one that knows the user's lines
        self._early: dict[int, list[dict[str, Any]]] = {}
        self._layer_said = False
        self._waiting: list[tuple[LateRow, torch.Tensor, Any]] = []

    def site(self, frame: FrameType, retained: bool) -> int:
        """The id of the place that calls backward.

        Args:
            frame: what called `torch.autograd.backward`.
            retained: the graph shall be kept; said of a place as it was at first.
        """
        direct = frame.f_code is not _TENSOR_BACKWARD
        if not direct and frame.f_back is not None:
            frame = frame.f_back
        # By id, as a code object is hashed by all that it holds; kept beside, so that no other takes its id.
        key = (id(frame.f_code), frame.f_lasti)
        user = user_frame(frame)
        place = None if user is None else (user.f_code.co_filename, user.f_lineno)
        site = self._sites.get(place)
        if site is None:
            site = self._sites[place] = len(self._sites)
            where = user_place(2)
            self.declare({"type": "backward", "id": site, "location": location(where), "retain_graph": retained})
        if not direct and is_user_file(frame.f_code.co_filename):  # in a library one instruction serves many places
            self.quick[key] = (site, frame.f_code)
            self.now.site, self.now.site_code, self.now.site_at = site, frame.f_code, frame.f_lasti
        return site

    def scaled(self, original: Any, result: Any) -> None:
        """GradScaler scaled a loss: backward is given `result`, the user means `original`."""
        if isinstance(original, torch.Tensor) and isinstance(result, torch.Tensor):
            self.now.scaled = (result, original.detach())

    def unscaled(self, loss: Any) -> Any:
        """The loss as the user means it."""
        if self.now.scaled is None:
            return loss
        (scaled, original), self.now.scaled = self.now.scaled, None
        return original if scaled is loss else loss

    def value(self, loss: Any, row: LateRow) -> float | None:
        """The value of a loss (the mean of one that is not one number); None if there is none, or not yet: what is on
        a device comes later, as `row`."""
        if self.now.scaled is not None:
            loss = self.unscaled(loss)
        if not isinstance(loss, torch.Tensor) or not is_real(loss) or not loss.numel():
            return None
        if loss.numel() > 1:
            loss = loss.detach().mean()
        if loss.is_cpu:
            return float(loss.item())
        self.later(row, loss)
        return None

    def later(self, row: LateRow, loss: torch.Tensor) -> None:
        """Have a row written when its loss has come from the device; nothing waits for it."""
        self._waiting.append((row, *sent(loss.detach())))

    def arrived(self, wait: bool = False) -> Iterator[tuple[LateRow, float]]:
        """The rows whose loss has arrived; with `wait` all."""
        while self._waiting:
            row, host, event = self._waiting[0]
            if event is not None:
                if wait:
                    event.synchronize()
                elif not event.query():
                    return
            del self._waiting[0]
            value = float(host)
            if not math.isfinite(value) and not self.said and row[0] == ord("B"):
                self.said = True
                self.event("non-finite", where="loss", value="nan" if math.isnan(value) else "inf", inputs_finite=None)
            yield row, value

    def wants_graph(self, site: int) -> bool:
        """Whether this place's graph is still to be taken."""
        return self._traced.get(site, 0) < TRACED

    def wants_trace(self) -> bool:
        """Whether a graph is waited for: of the first place, or of one that came later, when no call was logged."""
        return not self._traced or 0 < self._untraced < UNTRACED

    def take_graph(self, loss: Any, site: int, step: int) -> None:
        """Write the graph of a loss."""
        if not isinstance(loss, torch.Tensor) or loss.grad_fn is None:
            return
        if self.trace.logged:
            self._untraced = 0
        else:
            self._untraced += 1
            if site in self._traced:  # one without lines is better than none, but not than the one before it
                return
        self._traced[site] = self._traced.get(site, 0) + 1
        nodes = graph.take(loss.grad_fn, self.trace, self.layers)
        self._early[site] = nodes
        graph.activations(nodes, {layer.name: layer for _, layer in self.layers.all()})
        self.declare({"type": "graph", "step": step, "backward": site, "nodes": nodes, "cuts": list(self.trace.cuts)})

    def without_history(self, loss: torch.Tensor, site: int) -> None:
        """Backward is called on a tensor that nothing was computed from: no parameter gets a gradient."""
        if self.layers.parameter(loss) is None:
            self.count_event(
                "leaf-loss", f"leaf {site}", backward=site, location=location(self.trace.maker(loss)),
                cuts=list(self.trace.cuts),
            )  # fmt: skip

    # Not finite -------------------------------------------------------------------------------------------------------

    def loss_not_finite(self, loss: Any, site: int, value: float) -> None:
        """A loss is NaN or infinite: find the operation that made it so, while its graph is there."""
        if not isinstance(loss, torch.Tensor) or loss.grad_fn is None or loss.numel() != 1:
            return
        self.said = True
        early = self._early.get(site, [])
        # To unpack saved tensors would run the user's code again.
        look = nonfinite.unopened if self.packed else nonfinite.autopsy
        found = look(loss.grad_fn, self.layers, self.meter, self.trace, early)
        if found["where"] == "parameter":
            found = {**self._suspected(early), **found}
        self.event("non-finite", value="nan" if math.isnan(value) else "inf", **found)

    def layer_not_finite(
        self, layer: Layer, module: Any, amax: float, inputs_finite: bool, place: Place | None
    ) -> None:
        """A layer gave out what is not finite, on a watched step."""
        if self.said or self._layer_said:
            return
        self._layer_said = True
        bad = next((name for p in module.parameters(recurse=False) if (name := self._bad_parameter(p))), None)
        where = "parameter" if bad else "forward" if inputs_finite else "input"
        place = place or user_place(1)
        self.event(
            "non-finite", where=where, layer=layer.name, parameter=bad, function=type(module).__name__,
            value="nan" if math.isnan(amax) else "inf", inputs_finite=inputs_finite,
            file=place and place[0], line=place and place[1],
        )  # fmt: skip

    def gradient_not_finite(self, held: Held) -> None:
        """Gradients that are not finite, on a watched step, though the loss is."""
        if self.said:
            return
        self.said = True
        pairs = zip(held.parameters, held.names, strict=False)
        bad = [name for p, name in pairs if p.grad is not None and self._bad(p.grad)]
        named = {"layer": None, **self._suspected(next(iter(self._early.values()), []))}
        self.event(
            "non-finite", where="gradient", value="nan", parameters=bad[:64], parameter=bad[0] if bad else None,
            bad=len(bad), total=len(held.parameters), inputs_finite=True, **named,
        )  # fmt: skip

    def look_at_weights(self, held: Held) -> None:
        """At the end by an exception: weights that are not finite, where nothing was noticed before. Samplers and
        distributions refuse such numbers, and scripts without a backward pass give no loss to look at."""
        if self.said or self._layer_said:
            return
        bad = [name for p, name in zip(held.parameters, held.names, strict=False) if self._bad(p)]
        if bad:
            self.said = True
            layer = self.layers.parameter(held.parameters[held.names.index(bad[0])])
            self.event(
                "non-finite", where="parameter", value="nan", parameters=bad[:64], parameter=bad[0], bad=len(bad),
                total=len(held.parameters), layer=layer[1] if layer else None, inputs_finite=None,
            )  # fmt: skip

    def look_at_death(self, tensors: Iterable[torch.Tensor]) -> None:
        """At the end by an exception: the first of the tensors at hand that holds NaN, where nothing was noticed
        before. A distribution refuses such scores while the program only collects experience."""
        if self.said or self._layer_said or self.packed:
            return
        for tensor in tensors:
            # What is infinite is no sign: scores of what is not allowed are so in healthy programs.
            if tensor.grad_fn is not None and self._bad(tensor) and bool(tensor.isnan().any()):
                self.said = True
                found = nonfinite.autopsy(tensor.grad_fn, self.layers, self.meter, self.trace, [])
                self.event("non-finite", value="nan", died=True, **found)
                return

    def late_not_finite(self, what: str, subject: str) -> None:
        """Numbers of an accelerator, a step late: a gradient or an activation was not finite."""
        if self.said or self._layer_said:
            return
        self._layer_said = True
        named = self._suspected(next(iter(self._early.values()), [])) if what == "gradient" else {}
        where = "gradient" if what == "gradient" else "forward"
        about = {"parameter": subject} if what == "gradient" else {"layer": subject}
        self.event("non-finite", where=where, value="nan", inputs_finite=None, **{**named, **about})

    def _suspected(self, early: list[dict[str, Any]]) -> dict[str, Any]:
        suspect = nonfinite.suspect(early) or {}
        return {
            key: suspect[key] for key in ("function", "file", "line", "op", "layer") if suspect.get(key) is not None
        }

    def _bad(self, tensor: torch.Tensor) -> bool:
        return self.meter.takes(tensor) and not math.isfinite(self.meter.summary(tensor.detach(), 0, -1.0, math.inf)[3])

    def _bad_parameter(self, parameter: torch.Tensor) -> str | None:
        known = self.layers.parameter(parameter)
        return known[0] if known and self._bad(parameter) else None
