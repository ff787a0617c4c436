"""The plan: for each layer what is done with it, how much, and the bytes that this should come to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from wellfit.errors import WellfitError
from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.methods import Method, left_out

Told: TypeAlias = tuple[str, float, int] | tuple[str, float, int, str]
"""Of a layer its name, the share that is kept, its values, and its method where these do not say it."""

FEWEST = 8
"""Weights that a layer keeps at least, as the override prune has it."""

MOST_VALUES = 4096
_SMALL = 64  # a tensor of fewer weights is not pruned: its bytes are next to nothing
_GATHERED = 0.6  # of the bytes, where few weights are kept and gather in rows and columns (0.55 to 0.65 seen)
_BIAS = 0.3  # bytes of a bias, where biases are pruned and shared
_ENTRY = 14  # bytes of a tensor in the file beside its name and numbers
_HALF_BITS, _BFLOAT_BITS = 13.5, 10.7  # of a weight that is only rounded, see `filing`
_ONE_TINY = 1500  # weights of which one is too small for float16, where none were pruned
_COUNTED = 60  # bytes of the change that makes a layer count signs, and of the entry of its scales


@dataclass(frozen=True)
class Layer:
    """What is done with one tensor.

    Args:
        name: of the tensor.
        parameters: how many numbers it has.
        keep: the share of them that is not 0.
        values: the different values besides 0; 0 if they are left as they are.
        pattern, bits, signs: see `Method`.
        filters: that have a scale of their own each; 0 where there are no scales.
    """

    name: str
    parameters: int
    keep: float
    values: int
    pattern: tuple[int, int] | None = None
    bits: int = 0
    signs: str = ""
    filters: int = 0

    @property
    def method(self) -> Method:
        """What is done with it."""
        return Method(self.keep < 1, self.pattern, self.values > 0, self.bits, self.signs)

    @property
    def told(self) -> Told:
        """As short as can be."""
        method = self.method
        short = (self.name, self.keep, self.values)
        return (*short, str(method)) if method.is_told else short

    @property
    def predicted(self) -> float:
        """Bytes: the entropy of which weights are kept, and of the values of those."""
        return self._places + self._values + _ENTRY + len(self.name)

    def predicted_together(self) -> float:
        """The same where layers share out what they keep: kept weights gather in rows and columns then."""
        fewer = (1 - _GATHERED) * (1 - self.keep)
        if self.values and self.pattern is None:
            return (1 - fewer) * self.predicted
        return self.predicted - (fewer * self._places if self.pattern is None else 0.0)

    @property
    def _places(self) -> float:
        """Bytes that tell which weights are kept."""
        if self.pattern is None:
            return self.parameters * _entropy(self.keep) / 8
        kept, of = self.pattern
        return self.parameters * math.log2(math.comb(of, kept)) / of / 8

    @property
    def _values(self) -> float:
        """Bytes of the values that are kept, and of what tells which they are."""
        kept, values = self.keep * self.parameters, self.fewer_values
        if self.signs:
            return self.parameters / 8 + 2 * self.filters + (_COUNTED + len(self.name) if self.signs == "both" else 0)
        if self.bits:
            return kept * self._whole_bits / 8 + 4 * self.filters
        is_half = 1.0 if self.keep < 1 else math.exp(-self.parameters / _ONE_TINY)  # how likely float16 holds all
        float_bits = _BFLOAT_BITS + is_half * (_HALF_BITS - _BFLOAT_BITS)
        return kept * (math.log2(values) if values else float_bits) / 8 + 2 * values

    @property
    def _whole_bits(self) -> float:
        """Of a whole number: the entropy of normal numbers in cells of width 1, log2(2 pi e variance) / 2, of which the
        largest in a filter is the largest that its bits have. Of k normal numbers the largest is about
        1.45 + 0.285 ln k standard deviations (right to 0.1 from 9 to 10,000)."""
        deviation = (2 ** (self.bits - 1) - 1) / (1.45 + 0.285 * math.log(self.parameters / self.filters))
        return math.log2(2 * math.pi * math.e * (deviation**2 + 1 / 12)) / 2

    @property
    def fewer_values(self) -> int:
        """Of a small tensor there are fewer, as the override share has it; 0 if they are left as they are."""
        return min(self.values, max(2, self.parameters // 4)) if self.values else 0


@dataclass(frozen=True)
class Plan:
    """What is done with all layers of a network.

    Args:
        model: class of the network.
        layers: those that can be pruned and shared, in the order of the network.
        around: predicted bytes of everything else.
        together: the layers share out what is kept among themselves while they are trained; `keep` of a layer that is
            pruned is then only expected, and their sum holds. Layers with a pattern keep to that.
        left: layers that are left alone as what was asked for does not fit them: the reasons.
    """

    model: str
    layers: tuple[Layer, ...]
    around: float
    together: bool = False
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def predicted(self) -> float:
        """Bytes of the file."""
        return self.around + sum(
            layer.predicted_together() if self.together else layer.predicted for layer in self.layers
        )

    @property
    def keep(self) -> float:
        """Share of the layers' weights that are not 0."""
        return sum(layer.keep * layer.parameters for layer in self.layers) / sum(one.parameters for one in self.layers)

    @property
    def told(self) -> tuple[Told, ...]:
        """Of each layer what is done."""
        return tuple(layer.told for layer in self.layers)


def layer_of(network: Network, name: str, method: Method | None, keep: float, values: int) -> Layer:
    """What is done with a layer.

    Args:
        method: None where the share that is kept and the values say it.
        keep: told by the pattern where the method has one.
    """
    tensor = network.tensors[name]
    if method is None or not method.is_told:
        return Layer(name, tensor.count, keep, values)
    if method.pattern is not None:
        keep = method.pattern[0] / method.pattern[1]
    filters = tensor.shape[0] if method.bits or method.signs else 0
    return Layer(name, tensor.count, keep, values, method.pattern, method.bits, method.signs, filters)


def again(network: Network, told: Iterable[Told], together: bool, asked: Method | None = None) -> Plan:
    """The plan of which `Plan.told` told, and `Plan.together`.

    Args:
        asked: for all layers that it fits.
    """
    layers = tuple(
        layer_of(network, name, Method.of(method[0], name) if method else None, keep, values)
        for name, keep, values, *method in told
    )
    return Plan(network.model, layers, around(network, together), together, left_out(network, asked))


def alike(network: Network, method: Method, values: int = 0) -> Plan:
    """The plan that does the same with all layers that a method fits.

    Args:
        method: one that says which weights stay: all, or those of a pattern.
        values: different values of a layer, where they share some.

    Raises:
        WellfitError: it fits none.
    """
    left = left_out(network, method)
    fitting = [name for name in network.weights if name not in left]
    if not fitting:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left.items())[:3])
        raise WellfitError(f"{method} fits no layer of {network.model} ({why})")
    layers = tuple(
        layer_of(network, name, None if name in left else method, 1.0, 0 if name in left else values)
        for name in network.weights
    )
    return Plan(network.model, layers, around(network, False), False, left)


def planned(network: Network, keep: float, values: int, bits: int = 0) -> Plan:
    """The plan that keeps a share of all weights: more of a layer whose weights matter more.

    If a layer's error is its weight over the share that it keeps, the sum of errors is least where the share is as the
    root of the weight of each of its numbers.

    Args:
        keep: of all weights that can be pruned.
        values: different values of a layer.
        bits: of the whole numbers that the weights are, where they are such.
    """
    counts = {name: network.tensors[name].count for name in network.weights}
    shares = _shares({name: math.sqrt(weight) for name, weight in network.weights.items()}, counts, keep)
    method = Method(bits=bits) if bits else None
    layers = tuple(layer_of(network, name, method, shares[name], values) for name in counts)
    return Plan(network.model, layers, around(network, True), together=True)


def _shares(urge: Mapping[str, float], counts: Mapping[str, int], keep: float) -> dict[str, float]:
    """What each layer keeps: in proportion to its urge, all at most, `FEWEST` weights at least."""

    def at(factor: float) -> dict[str, float]:
        return {
            name: 1.0 if count < _SMALL else min(1.0, max(FEWEST / count, factor * urge[name]))
            for name, count in counts.items()
        }

    wanted = keep * sum(counts.values())
    low, high = 1e-9, 1 / min(urge.values())
    for _ in range(50):
        middle = math.sqrt(low * high)
        kept = sum(share * counts[name] for name, share in at(middle).items())
        low, high = (middle, high) if kept < wanted else (low, middle)
    return {name: round(share, 5) for name, share in at(high).items()}


def around(network: Network, with_biases: bool) -> float:
    """Bytes of all but the layers' weights: norms, buffers and biases that are left alone have 2 bytes a number; the
    header and the checksum are about 60.
    """
    rest = [tensor for name, tensor in network.tensors.items() if name not in network.weights]
    names = sum(_ENTRY + len(name) for name in network.tied) + sum(_ENTRY + len(tensor.name) for tensor in rest)
    biases = {tensor.name for tensor in rest if with_biases and network.why_left(tensor.name) == "bias"}
    return (
        60.0
        + names
        + sum(_BIAS * tensor.count if tensor.name in biases else min(tensor.bytes, 2 * tensor.count) for tensor in rest)
    )


def _entropy(share: float) -> float:
    return 0.0 if share in (0, 1) else -share * math.log2(share) - (1 - share) * math.log2(1 - share)
