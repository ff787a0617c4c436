"""What is known of the tensors of a network before it is made small: what keep-weights and scan have written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError

_SIZES = {"float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "complex128": 16, "bool": 1, "uint8": 1, "int8": 1}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network.

    Args:
        name: as in its state_dict.
        shape: of the tensor.
        dtype: as torch calls it.
        layer_class: class of the module that holds it.
        is_parameter: it is no buffer.
        groups: of a convolution.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layer_class: str
    is_parameter: bool
    groups: int = 1

    @property
    def count(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """In a state_dict, where floats have 32 bits."""
        return self.count * (4 if "float" in self.dtype else _SIZES.get(self.dtype, 4))


@dataclass(frozen=True)
class Network:
    """A network as its weights were kept.

    Args:
        model: its class.
        tensors: by name; tied ones once.
        tied: names of tied tensors: that of the tensor that they are.
        sensitivity: of each tensor that can be pruned: ||y' - y|| / ||y|| of its outputs with 80 % of the tensor 0.
        weights: how much a weight of each of these tensors matters, for sharing out what is kept.
        skipped: names of large tensors that are left alone: the reason.
    """

    model: str
    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str]
    sensitivity: Mapping[str, float]
    weights: Mapping[str, float]
    skipped: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Of the state_dict as float32, tied tensors once, without names."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Of all, tied ones once."""
        return sum(tensor.count for tensor in self.tensors.values() if tensor.is_parameter)

    def parameters_of(self, layer: str) -> int:
        """Of a layer with all that is in it, tied ones where they stand first."""
        return sum(
            tensor.count
            for name, tensor in self.tensors.items()
            if tensor.is_parameter and (not layer or name.startswith(f"{layer}."))
        )

    def why_left(self, name: str) -> str:
        """Why a tensor is neither pruned nor shared, in a word or two."""
        tensor = self.tensors[name]
        if name in self.skipped:
            return self.skipped[name]
        if not tensor.is_parameter:
            return "buffer"
        if "Norm" in tensor.layer_class:
            return "norm"
        return "bias" if "bias" in name.rpartition(".")[2] else "no weight of a layer"


def network_of(about: Path, scan: Path) -> Network:
    """The network that keep-weights (its .json) and scan tell of.

    Raises:
        WellfitError: a file is missing, or nothing in it can be made small.
    """
    told, seen = _read(about), _read(scan)
    tensors = {
        one["name"]: Tensor(
            one["name"], tuple(one["shape"]), one["dtype"], one["class"], one["kind"] == "parameter",
            one.get("groups", 1),
        )
        for one in told["tensors"]
    }  # fmt: skip
    layers = [layer for layer in seen["layers"] if layer["name"] in tensors]
    if not layers:
        raise WellfitError(f"{told['model']} has no layer whose weights slim could prune or share")
    return Network(
        told["model"], tensors, dict(told["tied"]),
        {layer["name"]: layer["prune"][0][1] for layer in layers},
        {layer["name"]: _weight(layer) for layer in layers},
        dict(seen["skipped"]),
    )  # fmt: skip


def _weight(layer: dict[str, Any]) -> float:
    """The mean squared error that its pruning makes, for each of its weights; saturated errors count as 1."""
    errors = [min(1.0, error) ** 2 for _, error, _ in layer["prune"]]
    return float(max(1e-6, sum(errors) / len(errors)) / layer["parameters"])


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise WellfitError(f"{path} cannot be read ({error}): remove its folder, and it is made again") from None
