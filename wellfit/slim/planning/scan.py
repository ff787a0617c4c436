"""The sensitivity scan: each layer with each method at some strengths, alone, on a copy that is put back each time.

What a step saves is estimated (bytes) or measured (milliseconds of the layer by itself); what it costs is how far the
outputs of the whole model move. Errors of several layers add up about as independent ones do: as sums of squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from wellfit.slim.changes import Unfit
from wellfit.slim.changes._tree import module_of, put_module
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import by_layer, compare
from wellfit.slim.methods.coupled.groups import Group, Indices, coupling
from wellfit.slim.methods.fold import folds
from wellfit.slim.methods.importance import magnitude
from wellfit.slim.methods.masked import gone_of, zero
from wellfit.slim.methods.trial import FASTER, Alone, given_to
from wellfit.slim.planning.applying import carried_out, change_values, take
from wellfit.slim.planning.coding import estimated
from wellfit.slim.planning.judge import Judge
from wellfit.slim.planning.layers import weighty
from wellfit.slim.planning.options import CUT, Stack, stacks
from wellfit.slim.planning.step import VALUES, Step

HOPELESS = 0.7
"""A method that moves the outputs by so much of their spread is not tried stronger on that layer."""

SMALL_SHARE = 0.01
"""Layers that take less of the time are not made faster: it could not be seen."""

_SECONDS = 0.15  # to time one option of a layer

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Option:
    """One thing that may be done with a layer, or with the channels that it makes.

    Args:
        steps: in their order; none leaves it as it is.
        cost: bytes in the file, or milliseconds of a call with one sample. Of cuts: the share of each layer's weights
            that is left is in `left`, and for time the cost is the change of the whole model's.
        moved: how far the outputs move.
        left: for cuts, by layer the share of its weights that stays.
    """

    steps: Stack
    cost: float
    moved: float
    left: dict[str, float] = field(default_factory=dict)


@dataclass
class Scan:
    """What was found.

    Args:
        goal: "size" or "latency".
        folds: batch norms that can be folded, which costs nothing.
        layers: by layer its options, the first of which leaves it as it is.
        cuts: by group of channels its options, likewise.
        around: bytes of all tensors that belong to no layer here.
        refused: by layer and method, why it cannot be used at all.
        tied: layers whose weight is that of an earlier one, and goes with it; and which one that is.
    """

    goal: str
    folds: tuple[Step, ...] = ()
    layers: dict[str, list[Option]] = field(default_factory=dict)
    cuts: dict[str, list[Option]] = field(default_factory=dict)
    around: float = 0.0
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)


def scan(
    model: nn.Module,
    inputs: Inputs,
    one: Inputs | None,
    judge: Judge,
    methods: Sequence[str],
    goal: str,
    progress: Progress,
) -> tuple[Scan, nn.Module]:
    """Look at each layer.

    Args:
        model: is not changed.
        inputs: an example batch, on the model's device.
        one: a batch of one sample, for latency.
        judge: of this model.
        methods: that may be used.
        goal: "size" or "latency".
        progress: told the layer, its number, and how many there are.

    Returns:
        what was found; and the model with its batch norms folded, on which all the rest stands.
    """
    found = Scan(goal)
    if "fold" in methods:
        _fold(model, inputs, found)
    base = carried_out(model, found.folds, inputs).model
    layers, found.tied = weighty(base)
    given = given_to(base, one, layers) if one is not None and goal == "latency" else {}
    times = {time.name: time for time in by_layer(base, one, seconds=0.5)} if one is not None and given else {}
    for number, (name, layer) in enumerate(layers.items(), 1):
        progress(name, number, len(layers))
        if goal == "latency":
            if name not in given or name not in times:
                found.refused[name, ""] = "it is not called as a module of its own, so that its time cannot be measured"
            elif times[name].share < SMALL_SHARE:
                found.refused[name, ""] = f"it takes {times[name].share:.1%} of the time: too little to be seen"
            else:
                found.layers[name] = _timed(base, name, given[name], times[name].p50, judge, methods, found)
        else:
            found.layers[name] = _sized(base, name, layer, judge, methods, found)
    if "cut" in methods:
        _cuts(base, inputs, judge, goal, found, progress)
    own = {id(tensor) for layer in layers.values() for tensor in layer.parameters(recurse=False)}
    found.around = estimated(
        tensor
        for tensor in base.state_dict(keep_vars=True).values()
        if torch.is_tensor(tensor) and id(tensor) not in own
    )
    return found, base


def _fold(model: nn.Module, inputs: Inputs, found: Scan) -> None:
    try:
        made = folds(model, inputs)
    except Unfit as error:
        found.refused["", "fold"] = str(error)
        return
    found.folds = tuple(Step(change.layer, "fold", change.norm) for change in made.changes)
    found.refused |= {(norm, "fold"): reason for norm, reason in made.skipped.items()}


def _sized(
    base: nn.Module, name: str, layer: nn.Module, judge: Judge, methods: Sequence[str], found: Scan
) -> list[Option]:
    """A layer's options by their bytes."""
    options = [Option((), estimated(layer.parameters(recurse=False)), 0.0)]
    kept = [(tensor, tensor.detach().clone()) for tensor in layer.parameters(recurse=False)]
    hopeless: set[str] = set()
    for stack in stacks(name, layer, methods, "size"):
        first = stack[0].method
        if first in hopeless or (name, first) in found.refused:
            continue
        try:
            with torch.no_grad():
                tried = _take_all(base, stack)
                bytes_now = (
                    estimated(tried.parameters()) if tried is not layer else estimated(layer.parameters(recurse=False))
                )
                moved = judge.moved(base)
        except Unfit as error:
            found.refused[name, first] = str(error).removeprefix(f"{name}: ")
            continue
        finally:
            _put_back(base, name, layer, kept)
        if moved > HOPELESS:
            hopeless.add(first)
        options.append(Option(stack, bytes_now, moved))
    return options


def _take_all(base: nn.Module, stack: Stack) -> nn.Module:
    for step in stack:
        if step.method in VALUES:
            change_values(base, step)
        else:
            take(base, step, None)
    return module_of(base, stack[0].layer)


def _put_back(base: nn.Module, name: str, layer: nn.Module, kept: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """The layer and its weights as they were, bit for bit."""
    if name and module_of(base, name) is not layer:
        put_module(base, name, layer)
    with torch.no_grad():
        for tensor, values in kept:
            tensor.copy_(values)


def _timed(
    base: nn.Module, name: str, given: Inputs, milliseconds: float, judge: Judge, methods: Sequence[str], found: Scan
) -> list[Option]:
    """A layer's options by their milliseconds; those that are not clearly faster are none."""
    layer = module_of(base, name)
    options = [Option((), milliseconds, 0.0)]
    slow: dict[str, float] = {}
    for stack in stacks(name, layer, methods, "latency"):
        first = stack[0].method
        if (name, first) in found.refused or all(step.method in VALUES for step in stack):
            continue
        try:
            other = _take_all(base, stack)
            speedup = compare(Alone(layer), Alone(other), given, seconds=_SECONDS).speedup
            moved = judge.moved(base)
        except Unfit as error:
            found.refused[name, first] = str(error).removeprefix(f"{name}: ")
            continue
        finally:
            _put_back(base, name, layer, [])
        if speedup >= FASTER:
            options.append(Option(stack, milliseconds / speedup, moved))
        else:
            slow[str(stack[-1])] = speedup
    if len(options) == 1 and slow:
        best = max(slow, key=lambda what: slow[what])
        found.refused[name, ""] = f"nothing is {FASTER} times as fast here; the best was {best}: {slow[best]:.2f} times"
    return options


def _cuts(base: nn.Module, inputs: Inputs, judge: Judge, goal: str, found: Scan, progress: Progress) -> None:
    """Channels that may go: by zeroing them, which for models with norms over channels is close."""
    try:
        coupled = coupling(base, inputs)
    except Unfit as error:
        found.refused["", "cut"] = str(error)
        return
    found.refused |= {(name, "cut"): reason for name, reason in coupled.refused.items()}
    for number, group in enumerate(coupled.groups, 1):
        progress(f"channels of {group.name}", number, len(coupled.groups))
        options = [Option((), 0.0, 0.0)]
        for share in CUT:
            count = group.channels - int(share * group.channels)
            if count == group.channels or options[-1].moved > HOPELESS:
                continue
            scores = magnitude(base, group)
            kept = np.sort(np.argsort(-scores, kind="stable")[:count])
            left, moved = _masked(base, group, kept, judge)
            step = Step(group.name, "cut", share)
            cost = _milliseconds_saved(base, step, inputs) if goal == "latency" and moved < HOPELESS else 0.0
            if not math.isnan(cost):
                options.append(Option((step,), cost, moved, left))
        if _is_layer(base, group.name):
            found.cuts[group.name] = options


def _is_layer(base: nn.Module, name: str) -> bool:
    return any(name == known for known, _ in base.named_modules())


def _masked(base: nn.Module, group: Group, kept: Indices, judge: Judge) -> tuple[dict[str, float], float]:
    """By layer the share of its weights that a cut leaves, and how far the outputs move with the others at 0."""
    gone = gone_of({group: kept})
    names = {place.tensor for place in gone}
    state = base.state_dict(keep_vars=True)
    before = {name: state[name].detach().clone() for name in names}
    zero(base, gone)
    moved = judge.moved(base)
    with torch.no_grad():
        for name, values in before.items():
            state[name].copy_(values)
    left: dict[str, float] = {}
    for place, indices in gone.items():
        if before[place.tensor].dim() > 1:
            layer = place.tensor.rpartition(".")[0]
            left[layer] = left.get(layer, 1.0) * (1 - len(indices) / place.size)
    return left, moved


def _milliseconds_saved(base: nn.Module, step: Step, inputs: Inputs) -> float:
    """What a cut saves of a call with one sample, as a negative number; NaN where it cannot be made."""
    made = carried_out(base, [step], inputs)
    if made.skipped:
        return math.nan
    pair = compare(base, made.model, inputs, batch=1, seconds=2 * _SECONDS)
    return pair.first.p50 * (1 / pair.speedup - 1) if pair.speedup > 1 else 0.0
