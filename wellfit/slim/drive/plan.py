"""The plan: for each layer what is done with it, how much, and the bytes that this should come to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.record.writing import write_json
from wellfit.slim.drive.layers import Network

VERSION = 1
METHODS = ("prune, share", "prune", "share", "keep")
FEWEST = 8
"""Weights that a layer keeps at least, as the override prune has it."""

MOST_VALUES = 4096
_SMALL = 64  # a tensor of fewer weights is not pruned: its bytes are next to nothing
_GATHERED = 0.6  # of the bytes, where few weights are kept and gather in rows and columns (0.55 to 0.65 seen)
_BIAS = 0.3  # bytes of a bias, where biases are pruned and shared
_ENTRY = 14  # bytes of a tensor in the file beside its name and numbers


@dataclass(frozen=True)
class Layer:
    """What is done with one tensor.

    Args:
        name: of the tensor.
        parameters: how many numbers it has.
        keep: the share of them that is not 0.
        values: the different values besides 0; 0 if they are left as they are.
    """

    name: str
    parameters: int
    keep: float
    values: int

    @property
    def method(self) -> str:
        """One of `METHODS`."""
        return METHODS[(2 if self.keep >= 1 else 0) + (0 if self.values else 1)]

    @property
    def predicted(self) -> float:
        """Bytes: the entropy of which weights are kept, and of the values of those."""
        kept, values = self.keep * self.parameters, self.fewer_values
        bits = self.parameters * _entropy(self.keep) + kept * (math.log2(values) if values else 25.0)
        return bits / 8 + 2 * values + _ENTRY + len(self.name)

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
            pruned is then only expected, and their sum holds.
    """

    model: str
    layers: tuple[Layer, ...]
    around: float
    together: bool = False

    @property
    def predicted(self) -> float:
        """Bytes of the file."""
        fewer = 1 - _GATHERED if self.together else 0.0
        return self.around + sum((1 - fewer * (1 - layer.keep)) * layer.predicted for layer in self.layers)

    @property
    def keep(self) -> float:
        """Share of the layers' weights that are not 0."""
        return sum(layer.keep * layer.parameters for layer in self.layers) / sum(one.parameters for one in self.layers)

    @property
    def told(self) -> tuple[tuple[str, float, int], ...]:
        """Of each layer its name, the share that is kept, and its values."""
        return tuple((layer.name, layer.keep, layer.values) for layer in self.layers)


def again(network: Network, told: Iterable[tuple[str, float, int]], together: bool) -> Plan:
    """The plan of which `Plan.told` told, and `Plan.together`."""
    layers = tuple(Layer(name, network.tensors[name].count, keep, values) for name, keep, values in told)
    return Plan(network.model, layers, _around(network, together), together)


def planned(network: Network, keep: float, values: int) -> Plan:
    """The plan that keeps a share of all weights: more of a layer whose weights matter more.

    If a layer's error is its weight over the share that it keeps, the sum of errors is least where the share is as the
    root of the weight of each of its numbers.

    Args:
        keep: of all weights that can be pruned.
        values: different values of a layer.
    """
    counts = {name: network.tensors[name].count for name in network.weights}
    shares = _shares({name: math.sqrt(weight) for name, weight in network.weights.items()}, counts, keep)
    layers = tuple(Layer(name, counts[name], shares[name], values) for name in counts)
    return Plan(network.model, layers, _around(network, True), together=True)


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


def _around(network: Network, with_biases: bool) -> float:
    """Norms, buffers and biases that are left alone have 2 bytes a number; the header and the checksum are about 60."""
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


# As a file ------------------------------------------------------------------------------------------------------------


def as_json(plan: Plan, network: Network) -> dict[str, Any]:
    """A plan as it is saved: `together`, and of each layer `method`, `keep` and `values`, can be edited."""
    return {
        "version": VERSION, "model": plan.model, "bytes": network.bytes, "predicted_bytes": round(plan.predicted),
        "predicted_ratio": round(network.bytes / plan.predicted, 2), "keep": round(plan.keep, 5),
        "together": plan.together,
        "layers": [
            {
                "name": layer.name, "parameters": layer.parameters,
                "share_of_bytes": round(network.tensors[layer.name].bytes / network.bytes, 4),
                "sensitivity": network.sensitivity[layer.name], "method": layer.method,
                "keep": layer.keep, "values": layer.values, "predicted_bytes": round(layer.predicted),
            }
            for layer in plan.layers
        ],
        "skipped": {name: network.why_left(name) for name in network.tensors if name not in network.weights},
    }  # fmt: skip


def write_plan(plan: Plan, network: Network, path: Path) -> None:
    """Write a plan.

    Raises:
        WellfitError: the file cannot be written.
    """
    try:
        write_json(path, as_json(plan, network))
    except OSError as error:
        raise WellfitError(f"the plan cannot be written to {path}: {error.strerror or error}") from None


def read_plan_text(path: Path) -> dict[str, Any]:
    """A plan's JSON, as far as it can be judged without the network.

    Raises:
        WellfitError: there is no such file, or it is no plan.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WellfitError(f"--plan {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise WellfitError(f"--plan {path} is no JSON: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("layers"), list) or "version" not in told:
        raise WellfitError(f'--plan {path} is no plan: it has no "version" and "layers"; --only-plan FILE writes one')
    if told["version"] != VERSION:
        raise WellfitError(f"--plan {path} has the version {told['version']}, and {VERSION} is known here")
    return told


def checked(told: dict[str, Any], network: Network, path: Path) -> Plan:
    """The plan that JSON tells of, for this network.

    Raises:
        WellfitError: it is for another network, or says what cannot be done.
    """
    where = f"--plan {path}"
    layers: dict[str, Layer] = {}
    for place, entry in enumerate(told["layers"], 1):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise WellfitError(f'{where}: layer {place} has no "name"')
        if name not in network.weights:
            near = did_you_mean(name, network.weights)
            raise WellfitError(f"{where} is for another network: {network.model} has no layer {name}{near}")
        if name in layers:
            raise WellfitError(f"{where}: the layer {name} is there twice")
        layers[name] = _layer(entry, network.tensors[name].count, f"{where}: {name}")
    missing = [name for name in network.weights if name not in layers]
    if missing:
        raise WellfitError(f'{where} says nothing of {missing[0]}: to leave it alone, give it the method "keep"')
    together = told.get("together", False)
    if type(together) is not bool:
        raise WellfitError(f'{where}: "together" is true or false, not {json.dumps(together)[:60]}')
    return Plan(network.model, tuple(layers[name] for name in network.weights), _around(network, together), together)


def _layer(entry: dict[str, Any], count: int, where: str) -> Layer:
    if entry.get("parameters", count) != count:
        raise WellfitError(f"{where} has {count} parameters, not {entry['parameters']}: it is for another network")
    method = entry.get("method", METHODS[0])
    if method not in METHODS:
        raise WellfitError(f'{where}: "method" is one of {"; ".join(METHODS)}, not {json.dumps(method)[:60]}')
    keep, values = entry.get("keep", 1.0), entry.get("values", 0)
    if type(keep) not in (int, float) or not 0 < keep <= 1:
        raise WellfitError(f'{where}: "keep" is the share of weights that stay, above 0 and up to 1, not {keep!r:.60}')
    if type(values) is not int or not (0 <= values <= MOST_VALUES):
        raise WellfitError(
            f'{where}: "values" is a whole number up to {MOST_VALUES}, 0 for no sharing, not {values!r:.60}'
        )
    if "share" in method and values == 0:
        raise WellfitError(f'{where}: the method "{method}" needs "values", how many different values stay')
    return Layer(
        entry["name"], count,
        max(float(keep), min(1.0, FEWEST / count)) if "prune" in method else 1.0,
        values if "share" in method else 0,
    )  # fmt: skip
