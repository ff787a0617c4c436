"""How long a call of a model takes on this machine, alone or beside another one, as a whole or by layer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import truediv
from typing import Any

import torch
from torch import nn

from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import device_of, evaluating, finish

_WARM_UP = 3
_FEWEST, _MOST = 5, 2000
_CALM = 1.3  # between the median and the fastest tenth
_SPELLS = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call.

    Args:
        batch: samples in a call.
        p50: half of the calls took at most this.
        p10: a tenth of them.
        p90: nine tenths of them.
        calls: how many were timed.
        p25, p75: the quartiles.
    """

    batch: int
    p50: float
    p10: float
    p90: float
    calls: int
    p25: float
    p75: float


@dataclass(frozen=True)
class Pair:
    """Two models, called in turn.

    Args:
        first: of the one.
        second: of the other.
        speedup: how many times as fast the second is, by two ratios: the median over pairs of calls, so that what slows
            the machine for a while slows both; and that of the fastest tenths, as other programs take the processor
            away in long calls more often than in short ones. The one nearer to 1 counts, and 1 where they do not agree
            which of both is faster.
    """

    first: Timing
    second: Timing
    speedup: float

    @property
    def unrest(self) -> float:
        """How far medians are from the fastest tenths, at least 1."""
        return max(one.p50 / one.p10 for one in (self.first, self.second))

    @property
    def is_calm(self) -> bool:
        """Whether the medians are those of undisturbed calls."""
        return self.unrest <= _CALM


@dataclass(frozen=True)
class LayerTime:
    """A module without modules in it.

    Args:
        name: of the module.
        kind: its class.
        p50: milliseconds in one call of the model, all its own calls together.
        share: of the model's time.
    """

    name: str
    kind: str
    p50: float
    share: float


def latency(model: nn.Module, inputs: Inputs, *, batch: int | None = None, seconds: float = 1.0) -> Timing:
    """Time calls of a model, in evaluation mode; the model is as it was afterwards.

    Args:
        model: on any device; the inputs are moved there.
        inputs: an example.
        batch: samples in a call; those of the example if None.
        seconds: about how long to go on, warm-up not counted; 5 calls at least.
    """
    given = _given(model, inputs, batch)
    with evaluating(model):
        for _ in range(_WARM_UP):
            _timed(model, given)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < _FEWEST or (time.perf_counter() < end and len(times) < _MOST):
            times.append(_timed(model, given))
    return _timing(times, given)


def compare(
    first: nn.Module, second: nn.Module, inputs: Inputs, *, batch: int | None = None, seconds: float = 1.0
) -> Pair:
    """Time two models call by call in turn, each first in every other pair, so that the ratio is fair.

    Args:
        first: on any device; the inputs are moved there.
        second: likewise.
        inputs: an example that both take.
        batch: samples in a call; those of the example if None.
        seconds: about how long to go on for both together, warm-up not counted; 5 pairs at least.
    """
    models = (first, second)
    given = [_given(model, inputs, batch) for model in models]
    times: tuple[list[float], list[float]] = ([], [])
    with evaluating(*models):
        for _ in range(_WARM_UP):
            for place in (0, 1):
                _timed(models[place], given[place])
        end = time.perf_counter() + seconds
        while len(times[0]) < _FEWEST or (time.perf_counter() < end and len(times[0]) < _MOST):
            for place in (0, 1) if len(times[0]) % 2 == 0 else (1, 0):
                times[place].append(_timed(models[place], given[place]))
    one, other = _timing(times[0], given[0]), _timing(times[1], given[1])
    typical, best = statistics.median(map(truediv, *times)), one.p10 / other.p10
    speedup = max(min(typical, best), 1.0) if typical >= 1 else min(max(typical, best), 1.0)
    return Pair(one, other, speedup)


def compare_calmly(
    first: nn.Module, second: nn.Module, inputs: Inputs, *, batch: int | None = None, seconds: float = 1.0
) -> Pair:
    """As `compare`; on a busy machine up to three times, and the calmest of them counts."""
    spells: list[Pair] = []
    while not spells or (not spells[-1].is_calm and len(spells) < _SPELLS):
        spells.append(compare(first, second, inputs, batch=batch, seconds=seconds))
    return min(spells, key=lambda pair: pair.unrest)


def by_layer(
    model: nn.Module, inputs: Inputs, *, batch: int | None = None, seconds: float = 1.0
) -> tuple[LayerTime, ...]:
    """Time the modules that hold no others, in the order of the model; those that were never called are left out.

    What lies between modules (functional calls) is in no layer, so shares need not add up to 1. To ask for the time
    takes some itself (about a microsecond a layer; on a graphics card it waits for each layer, which costs more).

    Args:
        model: on any device; the inputs are moved there.
        inputs: an example.
        batch: samples in a call; those of the example if None.
        seconds: about how long to go on, warm-up not counted; 5 calls at least.
    """
    given = _given(model, inputs, batch)
    leaves = {id(module): name for name, module in model.named_modules() if not any(True for _ in module.children())}
    watch = _Watch(device_of(model))
    modules = [module for module in dict.fromkeys(model.modules()) if id(module) in leaves]
    handles = [module.register_forward_pre_hook(watch.begin) for module in modules]
    handles += [module.register_forward_hook(watch.end) for module in modules]
    rounds: list[dict[int, float]] = []
    whole: list[float] = []
    try:
        with evaluating(model):
            for _ in range(_WARM_UP):
                _timed(model, given)
            end = time.perf_counter() + seconds
            while len(whole) < _FEWEST or (time.perf_counter() < end and len(whole) < _MOST):
                watch.times = {}
                whole.append(_timed(model, given))
                rounds.append(watch.times)
    finally:
        for handle in handles:
            handle.remove()
    total = statistics.median(whole)
    found = []
    for module in modules:
        if times := [watched[id(module)] for watched in rounds if id(module) in watched]:
            p50 = statistics.median(times)
            found.append(LayerTime(leaves[id(module)], type(module).__name__, p50, p50 / total))
    return tuple(found)


class _Watch:
    """Adds up the milliseconds of each module in one call of the model."""

    def __init__(self, device: torch.device) -> None:
        self.times: dict[int, float] = {}
        self._device = device
        self._begun: list[float] = []

    def begin(self, module: nn.Module, args: Any) -> None:
        """A module is called."""
        finish(self._device)
        self._begun.append(time.perf_counter())

    def end(self, module: nn.Module, args: Any, result: Any) -> None:
        """It has returned."""
        finish(self._device)
        took = (time.perf_counter() - self._begun.pop()) * 1000
        self.times[id(module)] = self.times.get(id(module), 0.0) + took


def _given(model: nn.Module, inputs: Inputs, batch: int | None) -> Inputs:
    return (inputs if batch is None else inputs.resized(batch)).to(device_of(model)).copied()


def _timed(model: nn.Module, inputs: Inputs) -> float:
    """Milliseconds of one call."""
    device = device_of(model)
    finish(device)
    start = time.perf_counter()
    inputs.call(model)
    finish(device)
    return (time.perf_counter() - start) * 1000


def _timing(times: Sequence[float], inputs: Inputs) -> Timing:
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(inputs.batch, middle, tenths[0], tenths[8], len(times), low, high)
