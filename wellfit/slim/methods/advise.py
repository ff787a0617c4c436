"""What a better design would save, layer by layer, before anything is changed: counted, and measured here.

An alternative is made with random weights in the shapes that it would have, and timed in turn with the layer on what
the layer is given in the model. Nothing is said of accuracy: how much energy a rank keeps is a hint, what the rest
costs only training shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.quantised import Quantised
from wellfit.slim.changes.reduced import Reduced
from wellfit.slim.changes.separable import Separable
from wellfit.slim.changes.steps import Steps
from wellfit.slim.changes.svd import Svd, spectrum, weight_of
from wellfit.slim.changes.tucker import Tucker, mode_spectra
from wellfit.slim.measure.cost import cost
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.latency import compare
from wellfit.slim.methods.checked import said
from wellfit.slim.methods.factor import rank_of_energy, rank_of_steps
from wellfit.slim.methods.proposal import weighty_layers
from wellfit.slim.methods.trial import FASTER, Alone, given_to

ENERGY = 0.9
DISTIL = "distillation"


@dataclass(frozen=True)
class Advice:
    """One alternative to one layer.

    Args:
        layer: its name. what: the alternative, in words.
        change: that makes it; None for a narrower layer, which structured cuts make.
        needs: what must follow.
        parameters, multiply_adds: of the layer, and with `_then` of the alternative; the latter for the inputs given.
        milliseconds: of the layer, median. speedup: how many times as fast the alternative is.
    """

    layer: str
    what: str
    change: Change | None
    needs: str
    parameters: int
    parameters_then: int
    multiply_adds: int
    multiply_adds_then: int
    milliseconds: float
    speedup: float

    @property
    def is_faster(self) -> bool:
        """Measured, by at least 1.2 times."""
        return self.speedup >= FASTER

    def __str__(self) -> str:
        fewer = f"{self.parameters:,} -> {self.parameters_then:,} parameters"
        less = f"{self.multiply_adds:,} -> {self.multiply_adds_then:,} multiply-adds"
        time = f"{self.speedup:.1f} times as fast" if self.is_faster else "no faster here"
        return f"{self.layer}: {self.what}: {fewer}, {less}, {self.milliseconds:.3f} ms, {time}"


@dataclass(frozen=True)
class Advices:
    """For a model.

    Args:
        found: the layer that takes the most time first, and for each layer the fastest alternative first.
        skipped: by layer, why there is none.
    """

    found: tuple[Advice, ...]
    skipped: dict[str, str]


def advise(model: nn.Module, inputs: Inputs, *, seconds: float = 0.2) -> Advices:
    """Try the alternatives to each layer that holds a weight.

    Args:
        model: trained or not; is not changed.
        inputs: one batch of the size that counts.
        seconds: how long to time each alternative.
    """
    layers = dict(weighty_layers(model))
    given = given_to(model, inputs, layers)
    by_layer: dict[str, list[Advice]] = {}
    skipped: dict[str, str] = {}
    for name, layer in layers.items():
        if name not in given:
            skipped[name] = "it is not called in a forward pass"
            continue
        found: list[Advice] = []
        reasons: list[str] = []
        for option in _options(name, layer):
            try:
                found.append(_tried(name, layer, given[name], option, seconds))
            except Unfit as error:
                reasons.append(f"{option.what}: {str(error).removeprefix('layer: ')}")
        if found:
            by_layer[name] = sorted(found, key=lambda advice: -advice.speedup)
        else:
            skipped[name] = "; ".join(reasons) or f"nothing is known for {type(layer).__name__}"
    order = sorted(by_layer.values(), key=lambda group: -group[0].milliseconds)
    return Advices(tuple(advice for group in order for advice in group), skipped)


@dataclass(frozen=True)
class _Option:
    """An alternative: what it makes of the layer alone, and of its inputs."""

    what: str
    make: Callable[[Alone], nn.Module]
    change: Change | None = None
    needs: str = ""
    inputs: Callable[[Inputs], Inputs] | None = None


def _options(name: str, layer: Any) -> Iterator[_Option]:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in layer.parameters(recurse=False)):
        return
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and prod(layer.kernel_size) > 1:
        yield from _of_convolution(name, layer)
    elif isinstance(layer, (nn.Linear, nn.Embedding, nn.LSTM, nn.GRU, nn.RNN, nn.Conv1d, nn.Conv2d)):
        rank = rank_of_energy(spectrum(weight_of(layer)), ENERGY)
        what = f"two factors of rank {rank}, which keep {ENERGY:.0%} of its energy"
        yield _remade(what, Svd("layer", rank), Svd(name, rank), "a little fine-tuning")
    if isinstance(layer, (nn.LSTM, nn.GRU)):
        rank = rank_of_steps(layer, ENERGY)
        what = f"recurrent weights in two factors of rank {rank}, which keep {ENERGY:.0%} of their energy"
        yield _remade(what, Steps("layer", rank), Steps(name, rank), "a little fine-tuning")
    if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU)):
        yield _Option(
            "half its width", lambda alone: Alone(_halved(alone.layer)), None, "training", _half_inputs(layer)
        )
    if isinstance(layer, (nn.Linear, nn.LSTM, nn.GRU)):
        yield _remade("int8", Quantised("layer", "int8"), Quantised(name, "int8"), "")


def _of_convolution(name: str, layer: Any) -> Iterator[_Option]:
    few = max(1, layer.in_channels // 4)
    yield _remade("depthwise separable", Separable("layer"), Separable(name), DISTIL)
    yield _remade(f"behind a 1x1 bottleneck of {few} channels", Reduced("layer", few), Reduced(name, few), DISTIL)
    if layer.groups == 1:
        ranks = [rank_of_energy(values, ENERGY) for values in mode_spectra(layer.weight)]
        what = f"Tucker-2 of ranks {ranks[0]} and {ranks[1]}, which keep {ENERGY:.0%} of its energy each"
        yield _remade(what, Tucker("layer", *ranks), Tucker(name, *ranks), "a little fine-tuning")


def _remade(what: str, here: Change, there: Change, needs: str) -> _Option:
    def make(alone: Alone) -> nn.Module:
        here.redo(alone)
        return alone

    return _Option(what, make, there, needs)


def _tried(name: str, layer: nn.Module, inputs: Inputs, option: _Option, seconds: float) -> Advice:
    """One alternative, measured.

    Raises:
        Unfit: it does not fit the layer, or fails.
    """
    plain = Alone(copy.deepcopy(layer))
    other = option.make(Alone(copy.deepcopy(layer)))
    given = option.inputs(inputs) if option.inputs else inputs
    try:
        before, after = cost(plain, inputs), cost(other, given)
        pair = compare(plain, _With(other, given), inputs, seconds=seconds)
    except Exception as error:
        raise Unfit(f"it fails: {said(error)}") from error
    sizes = (_numbers(plain), _numbers(other))
    # What torch's int8 kernels multiply is not counted: as much as before.
    then = after.multiply_adds or before.multiply_adds
    adds = (before.multiply_adds, then)
    return Advice(name, option.what, option.change, option.needs, *sizes, *adds, pair.first.p50, pair.speedup)


def _numbers(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


class _With(nn.Module):
    """A module that is called with inputs of its own, whatever it is given."""

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.module, self.inputs = module, inputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inputs.call(self.module)


def _halved(layer: Any) -> nn.Module:
    """A layer of the same kind with half the inputs and half the outputs.

    Raises:
        Unfit: it has groups, or too few channels.
    """
    if isinstance(layer, nn.Linear):
        sizes = (layer.in_features // 2, layer.out_features // 2)
        if not min(sizes):
            raise Unfit("it is too narrow")
        return nn.Linear(*sizes, bias=layer.bias is not None)
    if isinstance(layer, (nn.LSTM, nn.GRU)):
        if layer.input_size < 2 or layer.hidden_size < 2 or layer.proj_size:
            raise Unfit("it is too narrow")
        names = ("num_layers", "bias", "batch_first", "bidirectional")
        same = {name: getattr(layer, name) for name in names}
        return type(layer)(layer.input_size // 2, layer.hidden_size // 2, **same)
    if layer.groups != 1 or min(layer.in_channels, layer.out_channels) < 2:
        raise Unfit("it has groups, or too few channels")
    places = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    sizes = (layer.in_channels // 2, layer.out_channels // 2)
    made: nn.Module = type(layer)(*sizes, layer.kernel_size, bias=layer.bias is not None, **places)
    return made


def _half_inputs(layer: Any) -> Callable[[Inputs], Inputs]:
    """The first half of the channels of the first argument; a recurrent layer begins without a state."""
    axis = -1 - len(layer.kernel_size) if isinstance(layer, (nn.Conv1d, nn.Conv2d)) else -1

    def halve(inputs: Inputs) -> Inputs:
        if not inputs.args or not isinstance(inputs.args[0], torch.Tensor):
            raise Unfit("it is not called with a tensor")
        first = inputs.args[0]
        return Inputs((first.narrow(axis, 0, first.shape[axis] // 2).contiguous(),), {}, inputs.batch_axis)

    return halve
