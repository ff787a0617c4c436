"""Which layers to factor, and to which rank: by the energy that is kept, by compression, or for a size of the whole."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes._convs import finite
from wellfit.slim.changes._swap import layer_at
from wellfit.slim.changes.cp import Cp, cp_factors
from wellfit.slim.changes.steps import Steps
from wellfit.slim.changes.svd import Svd, factored, largest_rank, spectrum, weight_of
from wellfit.slim.changes.tucker import Tucker, mode_spectra, tucker2, tucker_parameters
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.proposal import Proposal, weighty_layers
from wellfit.slim.methods.trial import FASTER, given_to, tried

MATRICES = (nn.Linear, nn.Embedding, nn.LSTM, nn.GRU, nn.RNN)
CONVS = (nn.Conv1d, nn.Conv2d)


def rank_of_energy(singular: torch.Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the sum of squared singular values; at least 1.

    Args:
        singular: the largest first.
        energy: in 0..1.
    """
    squares = singular.double().square().cumsum(0)
    total = float(squares[-1])
    return min(int((squares < energy * total * (1 - 1e-12)).sum()) + 1, len(singular)) if total else 1


def by_energy(model: nn.Module, energy: float, *, convs: str = "tucker") -> Proposal:
    """Factor each layer to the smallest rank that keeps this share of its energy, where that is smaller.

    Convolutions keep it in each of their two modes, so the kept energy of both together may be a little less.

    Args:
        model: is not changed.
        energy: in 0..1; 0.9 is a common start.
        convs: "tucker" or "cp"; cp takes the rank of Tucker's core, `rank_in + rank_out`.

    Raises:
        WellfitError: an argument is out of range.
    """
    _check(energy, "energy", convs)

    def change_of(name: str, layer: Any) -> Change:
        if _is_matrix(layer):
            return Svd(name, rank_of_energy(spectrum(weight_of(layer)), energy))
        ranks = [rank_of_energy(values, energy) for values in mode_spectra(layer.weight)]
        return Cp(name, sum(ranks)) if convs == "cp" else Tucker(name, *ranks)

    return _proposed(model, change_of)


def by_share(model: nn.Module, share: float, *, convs: str = "tucker") -> Proposal:
    """Factor each layer to the largest rank with at most this share of its parameters.

    Args:
        model: is not changed.
        share: in 0..1, of a layer's weights.
        convs: "tucker" (both ranks the same share of their channels) or "cp".

    Raises:
        WellfitError: an argument is out of range.
    """
    _check(share, "share", convs)

    def change_of(name: str, layer: Any) -> Change:
        if _is_matrix(layer):
            rows, columns = weight_of(layer).shape
            return Svd(name, max(1, min(int(share * rows * columns / (rows + columns)), largest_rank(rows, columns))))
        shape = tuple(layer.weight.shape)
        if convs == "cp":
            return Cp(name, max(1, int(share * prod(shape) / sum(shape))))
        for tenths in range(100, 0, -1):
            ranks = [max(1, shape[axis] * tenths // 100) for axis in (1, 0)]
            if tucker_parameters(shape, *ranks) <= share * prod(shape):
                return Tucker(name, *ranks)
        return Tucker(name, 1, 1)

    return _proposed(model, change_of)


def by_target(model: nn.Module, share: float) -> Proposal:
    """Factor matrices so that all of them together have at most this share of their parameters, with the least energy
    lost: rank after rank is given to the layer where one more keeps most of its energy for each parameter.

    A layer whose factors would be as large as itself stays whole. Convolutions with larger kernels are left alone.

    Args:
        model: is not changed.
        share: in 0..1, of the weights of all layers that fit.

    Raises:
        WellfitError: an argument is out of range.
    """
    _check(share, "share", "tucker")
    found: dict[str, _Spectrum] = {}
    skipped: dict[str, str] = {}
    for name, layer in weighty_layers(model):
        try:
            if not _is_matrix(_fitting(model, name)):
                raise Unfit("its kernel has more than one place; by_energy and by_share factor it")
            rows, columns = finite(weight_of(layer)).shape
            Svd(name, 1).checked(model)
            found[name] = _Spectrum(spectrum(weight_of(layer)).square(), rows + columns, rows * columns)
        except Unfit as error:
            skipped[name] = _bare(name, error)
    ranks = ranks_for({name: _steps(each) for name, each in found.items()}, share, found)
    whole = [name for name, rank in ranks.items() if rank * found[name].each >= found[name].whole]
    skipped |= dict.fromkeys(whole, "it keeps most where it is whole")
    changes = [Svd(name, rank) for name, rank in ranks.items() if name not in whole]
    errors = {
        change.layer: factored(weight_of(model.get_submodule(change.layer)), change.rank).error for change in changes
    }
    return Proposal(tuple(changes), skipped, errors)


def steps_where_faster(model: nn.Module, inputs: Inputs, energy: float, *, seconds: float = 0.5) -> Proposal:
    """Factor the recurrent weights of LSTM and GRU layers where that is measured to be 1.2 times as fast or more: torch
    runs such a layer as one fused operation, the factored one goes step by step.

    Args:
        model: is not changed.
        inputs: one batch of the size that counts.
        energy: in 0..1, of each of a layer's recurrent weights; the largest rank is taken for all of them.
        seconds: how long to time each layer.

    Raises:
        WellfitError: the energy is out of range.
    """
    _check(energy, "energy", "tucker")
    layers = {name: layer for name, layer in weighty_layers(model) if isinstance(layer, (nn.LSTM, nn.GRU))}
    given = given_to(model, inputs, layers)
    changes: list[Change] = []
    errors: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, layer in layers.items():
        try:
            if name not in given:
                raise Unfit("it is not called in a forward pass")
            change = Steps(name, rank_of_steps(layer, energy))
            change.checked(model)
            trial = tried(layer, change, given[name], seconds=seconds)
            if not trial.is_faster:
                raise Unfit(f"in two factors it is {trial.speedup:.2f} times as fast here, not {FASTER}")
            changes.append(change)
            errors[name] = max(factored(weight, change.rank).error for weight in _recurrent_weights(layer))
        except Unfit as error:
            skipped[name] = _bare(name, error)
    return Proposal(tuple(changes), skipped, errors)


def rank_of_steps(layer: nn.LSTM | nn.GRU, energy: float) -> int:
    """The smallest rank that keeps this share of the energy of every recurrent weight of a layer."""
    return max(rank_of_energy(spectrum(finite(weight)), energy) for weight in _recurrent_weights(layer))


def _recurrent_weights(layer: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach() for name, parameter in layer.named_parameters() if name.startswith("weight_hh")]


@dataclass(frozen=True)
class _Spectrum:
    """Squared singular values, the parameters that one more rank takes, and those of the layer as it is."""

    squares: torch.Tensor
    each: int
    whole: int


def _steps(layer: _Spectrum) -> list[float]:
    """By rank, the share of its energy that it adds for each parameter."""
    total = float(layer.squares.sum()) or 1.0
    values: list[float] = (layer.squares / total / layer.each).tolist()
    return values


def ranks_for(gains: Mapping[str, Sequence[float]], share: float, layers: Mapping[str, _Spectrum]) -> dict[str, int]:
    """By layer the rank, where the parameters of all come to at most this share; at least 1 each."""
    left = share * sum(layer.whole for layer in layers.values()) - sum(layer.each for layer in layers.values())
    ranks = dict.fromkeys(gains, 1)
    queue = [(-steps[1], name) for name, steps in gains.items() if len(steps) > 1]
    heapq.heapify(queue)
    while queue:
        _, name = heapq.heappop(queue)
        layer = layers[name]
        before, after = (min(rank * layer.each, layer.whole) for rank in (ranks[name], ranks[name] + 1))
        if after - before > left:
            continue
        left -= after - before
        ranks[name] += 1
        if ranks[name] < len(gains[name]):
            heapq.heappush(queue, (-gains[name][ranks[name]], name))
    return ranks


def _check(value: float, what: str, convs: str) -> None:
    if not 0 < value <= 1 or convs not in ("tucker", "cp"):
        raise WellfitError(f"{what}={value}, convs={convs}: a number above 0 up to 1, and tucker or cp were expected")


def _is_matrix(layer: Any) -> bool:
    return isinstance(layer, MATRICES) or prod(getattr(layer, "kernel_size", (0,))) == 1


def _fitting(model: nn.Module, name: str) -> Any:
    """The layer, if it is of a kind that can be factored.

    Raises:
        Unfit: it is not.
    """
    return layer_at(model, name, (*MATRICES, *CONVS))


def _proposed(model: nn.Module, change_of: Any) -> Proposal:
    changes: list[Change] = []
    errors: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, layer in weighty_layers(model):
        try:
            _fitting(model, name)
            for parameter in layer.parameters(recurse=False):
                finite(parameter)
            change: Any = change_of(name, layer)
            change.checked(model)
            errors[name] = _error(layer, change)
            changes.append(change)
        except Unfit as error:
            skipped[name] = _bare(name, error)
    return Proposal(tuple(changes), skipped, errors)


def _error(layer: Any, change: Change) -> float:
    if isinstance(change, Svd):
        return factored(weight_of(layer), change.rank).error
    if isinstance(change, Tucker):
        return tucker2(layer.weight, change.rank_in, change.rank_out).error
    assert isinstance(change, Cp)
    return cp_factors(layer.weight, change.rank)[1]


def _bare(name: str, error: Unfit) -> str:
    """The reason without the layer's name."""
    return str(error).removeprefix(f"{name}: ")
