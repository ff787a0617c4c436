"""The search for the best whole model: each is made of the layers' options at one price of error, and measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import by_layer, compare, latency
from wellfit.slim.measure.size import size
from wellfit.slim.methods.trial import FASTER
from wellfit.slim.planning.applying import carried_out
from wellfit.slim.planning.choose import Steps, chosen
from wellfit.slim.planning.coding import coded, file_bytes, tensors_of
from wellfit.slim.planning.judge import Judge
from wellfit.slim.planning.layers import layer_kinds
from wellfit.slim.planning.plan import LayerForecast, Point
from wellfit.slim.planning.scan import Progress, Scan
from wellfit.slim.target import Target

_ROUNDS = 10  # whole models that are measured
_WIDE = (-3.0, 7.0)  # powers of ten of the price of error, relative to what the dense model costs
_SECONDS = 0.4  # to time a whole model beside the dense one


@dataclass
class Search:
    """Whole models under steps, measured.

    Args:
        model: the dense one; inputs: an example batch on its device; judge: of it.
        one: a batch of one sample, if the model takes such.
        scan: what was found of its layers.
        goal, keep: what is wanted, and the points that may be lost.
        tell: hears of each model that is measured.
    """

    model: nn.Module
    inputs: Inputs
    one: Inputs | None
    judge: Judge
    scan: Scan
    goal: Target
    keep: float
    tell: Progress
    points: dict[Steps, Point] = field(default_factory=dict)

    def __post_init__(self) -> None:
        timed = self.goal.is_time and self.one is not None
        milliseconds = latency(self.model, self.one, seconds=_SECONDS).p50 if timed and self.one else None
        self.dense = Point(size(self.model).bytes, milliseconds, 0.0, 0.0)
        self.limit = (
            self.goal.milliseconds_of(milliseconds)
            if self.goal.is_time
            else self.goal.bytes_of(self.dense.bytes) or None
        )

    def best(self) -> Point:
        """By bisection of the price of error: for the limit, and where it cannot be met so, for what may be lost."""
        self._measured(chosen(self.scan, math.inf))
        if self.limit is not None:
            self._bisect(lambda point: not self._is_within_limit(point))
            if any(self.is_met(point) for point in self.points.values()):
                return self._pick()
        self._bisect(lambda point: point.lost <= self.keep)
        return self._pick()

    def is_met(self, point: Point) -> bool:
        """Whether a point reaches the target within what may be lost."""
        return point.lost <= self.keep and self._is_within_limit(point) and (
            self.goal.kind != "latency" or self._is_faster(point)
        )  # fmt: skip

    def _bisect(self, is_too_mild: Callable[[Point], bool]) -> None:
        """Measures whole models, up to where they are no longer too mild."""
        cost = sum(options[0].cost for options in self.scan.layers.values()) or 1.0
        low, high = _WIDE
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            if is_too_mild(self._measured(chosen(self.scan, cost * 10**middle))):
                high = middle
            else:
                low = middle

    def forecasts(self, point: Point) -> tuple[LayerForecast, ...]:
        """What is expected of each layer under the steps of a point."""
        made = carried_out(self.model, point.steps, self.inputs).model
        sizes = coded(tensors_of(made), small=False)
        one = self.one
        times = [dict(_times(model, one)) for model in (self.model, made)] if one is not None else [{}, {}]
        moved = self._moved_alone(point.steps)
        kinds = layer_kinds(self.model)
        found = []
        for name, (kind, parameters) in kinds.items():
            inside = _inside(name, kinds)
            before = sum(t.numel() * t.element_size() for key, t in tensors_of(self.model).items() if inside(key))
            ms = [sum(took for layer, took in each.items() if inside(layer + ".")) or None for each in times]
            after = sum(count for key, count in sizes.items() if inside(key))
            found.append(LayerForecast(name, kind, parameters, before, after, ms[0], ms[1], moved.get(name)))
        return tuple(found)

    def _measured(self, steps: Steps) -> Point:
        """A whole model; each is measured once."""
        if steps not in self.points:
            self.tell("the whole model", len(self.points) + 1, 0)
            made = carried_out(self.model, steps, self.inputs)
            verdict = self.judge.of(made.model)
            milliseconds = self._milliseconds(made.model)
            self.points[steps] = Point(
                file_bytes(made.model, made.changes), milliseconds, verdict.lost, verdict.moved, made.steps
            )
        return self.points[steps]

    def _pick(self) -> Point:
        points = list(self.points.values())
        met = [point for point in points if self.is_met(point)]
        if met and self.limit is not None:
            return min(met, key=lambda point: point.harm)
        kept = [point for point in points if point.lost <= self.keep]
        if self.goal.is_time:
            # What is not clearly faster is not worth its loss.
            kept = [point for point in kept if self._is_faster(point)]
        return min(kept, key=self._cost) if kept else self._measured(chosen(self.scan, math.inf))

    def _is_faster(self, point: Point) -> bool:
        return bool(self.dense.ms and point.ms and self.dense.ms >= FASTER * point.ms)

    def _is_within_limit(self, point: Point) -> bool:
        return self.limit is None or self._cost(point) <= self.limit

    def _cost(self, point: Point) -> float:
        if self.goal.is_time:
            return math.inf if point.ms is None else point.ms
        return point.bytes

    def _milliseconds(self, model: nn.Module) -> float | None:
        """Of a call with one sample: those of the dense model, over how many times as fast this one is."""
        if not self.goal.is_time or self.one is None or self.dense.ms is None:
            return None
        return self.dense.ms / compare(self.model, model, self.one, seconds=_SECONDS).speedup

    def _moved_alone(self, steps: Steps) -> dict[str, float]:
        """From the scan, how far the steps of each layer move the outputs."""
        found: dict[str, float] = {}
        for name, options in (*self.scan.cuts.items(), *self.scan.layers.items()):
            for option in options:
                if option.steps and all(step in steps for step in option.steps):
                    mine = tuple(step for step in steps if step.layer == name and step.method not in ("fold", "cut"))
                    if option.steps in (mine, tuple(s for s in steps if s.layer == name and s.method == "cut")):
                        found[name] = max(found.get(name, 0.0), option.moved)
        return found


def _times(model: nn.Module, one: Inputs) -> Iterator[tuple[str, float]]:
    for time in by_layer(model, one, seconds=_SECONDS / 2):
        yield time.name, time.p50


def _inside(layer: str, layers: Any) -> Any:
    """Whether a tensor's name is one of a layer, and of none of the layers in it."""
    prefix = f"{layer}." if layer else ""
    below = tuple(f"{other}." for other in layers if other != layer and f"{other}.".startswith(prefix))

    def is_inside(name: str) -> bool:
        return name.startswith(prefix) and not name.startswith(below)

    return is_inside
