"""What may be tried on a layer: methods, and how strong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import nn

from wellfit.slim.changes.svd import largest_rank, spectrum, weight_of
from wellfit.slim.changes.tucker import mode_spectra, tucker_parameters
from wellfit.slim.methods.factor import rank_of_energy
from wellfit.slim.planning.step import Step

ENERGIES = (0.99, 0.95, 0.9, 0.8)
PRUNED = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARED = (64, 32, 16, 8, 6, 4, 3, 2)
BITS = (8, 6, 5, 4, 3)
CUT = (0.05, 0.1, 0.2, 0.35, 0.5)
_MATRICES = (nn.Linear, nn.Embedding, nn.LSTM, nn.GRU, nn.RNN)
_SMALL = 64  # numbers: a table of values would be as large as they are

Stack = tuple[Step, ...]
"""Steps on one layer, in their order."""

BY_GOAL = {
    "size": ("fold", "cut", "svd", "tucker", "prune", "share", "grid", "round"),
    "latency": ("fold", "cut", "svd", "tucker", "int8"),
}
"""The methods that are tried where none are named. CP is slow to fit and seldom better than Tucker: only if named."""


def stacks(name: str, layer: nn.Module, methods: Sequence[str], goal: str) -> Iterator[Stack]:
    """All that may be tried on a layer, the mild first, for a goal: for size, values are changed on top of factors.

    Args:
        name: of the layer.
        layer: in its model.
        methods: that may be used.
        goal: "size" or "latency".
    """
    if "int8" in methods and type(layer) in (nn.Linear, nn.LSTM, nn.GRU):
        yield (Step(name, "int8"),)
    valued = list(_values(name, layer, methods))
    yield from valued
    on_top: Stack = next((stack for stack in valued if stack[0] == Step(name, "share", 32)), ())
    for step in factors(name, layer, methods):
        yield (step, *on_top) if goal == "size" else (step,)


def _values(name: str, layer: nn.Module, methods: Sequence[str]) -> Iterator[Stack]:
    weights = [parameter for parameter in layer.parameters(recurse=False) if parameter.dim() > 1]
    if "round" in methods:
        yield (Step(name, "round", "bf16"),)
        yield (Step(name, "round", "fp16"),)
    if max((weight.numel() for weight in weights), default=0) < _SMALL:
        return
    last: Stack = (Step(name, "round", "bf16"),) if "round" in methods else ()
    shares: list[Stack] = [(Step(name, "share", count),) for count in SHARED] if "share" in methods else []
    grids: list[Stack] = [(Step(name, "grid", bits),) for bits in BITS] if "grid" in methods else []
    for stack in (*shares, *grids):
        yield stack if stack[0].method == "grid" else (*stack, *last)
    if "prune" in methods:
        after: list[Stack] = [stack for stack in shares if stack[0].strength in (32, 16, 8, 4)] or grids[:1] or [()]
        for share in PRUNED:
            for stack in after:
                yield (Step(name, "prune", share), *stack, *last)


def factors(name: str, layer: Any, methods: Sequence[str]) -> Iterator[Step]:
    """Ranks that keep some of the energy, where the factors are smaller than the layer."""
    if not all(_is_real(parameter) for parameter in layer.parameters(recurse=False)):
        return
    spatial = type(layer) in (nn.Conv1d, nn.Conv2d) and prod(layer.kernel_size) > 1
    found: list[Step] = []
    if not spatial and "svd" in methods and type(layer) in (*_MATRICES, nn.Conv1d, nn.Conv2d):
        values, most = spectrum(weight_of(layer)), largest_rank(*weight_of(layer).shape)
        found = [Step(name, "svd", min(rank_of_energy(values, energy), most)) for energy in ENERGIES if most > 0]
    if spatial and layer.groups == 1 and ("tucker" in methods or "cp" in methods):
        shape, modes = tuple(layer.weight.shape), mode_spectra(layer.weight)
        for energy in ENERGIES:
            ranks = [rank_of_energy(values, energy) for values in modes]
            if "tucker" in methods and tucker_parameters(shape, *ranks) < prod(shape):
                found.append(Step(name, "tucker", tuple(ranks)))
            if "cp" in methods and sum(ranks) * sum(shape) < prod(shape):
                found.append(Step(name, "cp", sum(ranks)))
    yield from dict.fromkeys(found)


def _is_real(parameter: torch.Tensor) -> bool:
    dense = parameter.layout is torch.strided and not parameter.is_complex()
    return dense and bool(torch.isfinite(parameter).all())
