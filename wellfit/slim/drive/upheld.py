"""Whether a file holds what its plan says of each layer: read again, number by number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.slim.drive.layers import Network
from wellfit.slim.drive.methods import inputs_axis
from wellfit.slim.drive.plan import Layer, Plan
from wellfit.slim.wfz import Contents, read


def broken(file: Path, network: Network, plan: Plan) -> list[str]:
    """What a file does not hold of patterns, grids and signs, in phrases; empty where all is as it should be.

    A layer that counts signs has bits in the place of its weights, which cannot be anything else.

    Raises:
        WellfitError: the file cannot be read.
    """
    contents = read(file)
    told = [layer for layer in plan.layers if layer.method.is_told and layer.name in contents.stored]
    return [
        f"{layer.name} {why}"
        for layer in told
        for why in _broken(layer, _values(contents, layer.name), network.tensors[layer.name].layer_class)
    ]


def _broken(layer: Layer, values: NDArray[Any], layer_class: str) -> Iterator[str]:
    by_filter = values.reshape(len(values), -1)
    if layer.pattern is not None:
        kept, of = layer.pattern
        rows = np.moveaxis(values != 0, inputs_axis(layer_class, values.ndim), -1)
        most = int(rows.reshape(-1, of).sum(axis=1).max())
        if most > kept:
            yield f"has {most} of {of} neighbours that are not 0, not {kept}"
    if layer.signs and _most_distinct(np.abs(by_filter)) > 1:
        yield "is no sign times a scale for each filter"
    if layer.bits and _most_distinct(by_filter) > 2**layer.bits - 2:
        yield f"has more different values in a filter than {layer.bits} bits have"


def _most_distinct(rows: NDArray[Any]) -> int:
    """Different values of a row, besides 0; of the row that has most."""
    return max(len(np.unique(row[row != 0])) for row in rows)


def _values(contents: Contents, name: str) -> NDArray[Any]:
    """The numbers of a tensor; bfloat16, which numpy lacks, is read as its bits."""
    tensor = contents.tensor(name)
    if contents.stored[name].dtype != "bfloat16":
        return tensor
    wide: NDArray[np.uint32] = tensor.astype("<u4") << np.uint32(16)
    return wide.view("<f4")
