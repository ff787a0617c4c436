"""A network as a program of torch.export, for any batch size where the network allows it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils._pytree import tree_leaves

from wellfit.errors import WellfitError
from wellfit.slim.exporting.failing import place_of, quiet
from wellfit.slim.layers.binary import BinaryConv2d, BinaryLinear
from wellfit.slim.layers.flattened import FlattenedLinear
from wellfit.slim.layers.int8_recurrent import Int8Recurrent
from wellfit.slim.layers.quantised import Int4Linear, Int8Conv2d, Int8Linear
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import said

_KERNELS: dict[type[nn.Module], str] = {
    BinaryLinear: "binarise",
    BinaryConv2d: "binarise",
    Int8Linear: "int8",
    Int8Conv2d: "int8",
    Int8Recurrent: "int8",
    Int4Linear: "int4",
    FlattenedLinear: "torchao",
}
"""Layers that compute by kernels of this machine, which no file holds, and what made them. Traced, they would give
what they stand for in floats: other numbers, in as many bytes as before."""


@dataclass(frozen=True)
class Port:
    """An input or output of a program.

    Args:
        name: of it.
        dtype: of its numbers, as torch calls it.
        shape: sizes; text where they depend on the batch.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}, {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Program:
    """What `program_of` made.

    Args:
        exported: of torch.
        is_any_batch: whether it takes any number of samples.
        inputs, outputs: what it is called with, and what it returns.
        others: operations that are not torch's own.
    """

    exported: ExportedProgram
    is_any_batch: bool
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    others: tuple[str, ...]


def check_exportable(model: nn.Module, given: Inputs) -> None:
    """Say in one sentence why a model cannot be exported, where that is known before.

    Raises:
        WellfitError: a layer computes by a kernel that no file holds, or the model returns more than tensors.
    """
    for name, module in model.named_modules():
        made = _KERNELS.get(type(module))
        if made:
            raise WellfitError(
                f"{name or 'the network'} ({type(module).__name__}) computes by a kernel of this machine, which "
                f"neither ONNX nor torch.export can hold: make the file without {made}"
            )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        returned = given.copied().call(model)
    other = next((leaf for leaf in tree_leaves(returned) if leaf is not None and not torch.is_tensor(leaf)), None)
    if other is not None:
        raise WellfitError(
            f"the network returns an object of the type {type(other).__name__}: what is exported returns tensors only, "
            "in tuples, lists or dictionaries"
        )


def program_of(model: nn.Module, given: Inputs) -> Program:
    """Trace a network.

    Args:
        model: in evaluation mode, on the CPU.
        given: an example; a network that does not take any batch size is traced with that of the example.

    Raises:
        WellfitError: torch.export cannot follow the network: in which layer and line, and why.
    """
    try:
        # A batch of one would be taken for an axis that is always one.
        made = _traced(model, given if given.batch > 1 else given.resized(2), any_batch=True)
        if made.is_any_batch:
            return made
    except WellfitError:
        pass
    return _traced(model, given, any_batch=False)


def _traced(model: nn.Module, given: Inputs, any_batch: bool) -> Program:
    shapes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in tree_leaves((given.args, dict(given.kwargs))):
        if any_batch and torch.is_tensor(tensor) and tensor.dim() and tensor.shape[0] == given.batch:
            shapes[tensor] = {0: Dim.AUTO}
    try:
        with quiet(), torch.no_grad():
            dynamic = shapes.dynamic_shapes(model, given.args, dict(given.kwargs)) if any_batch else None
            made = torch.export.export(model, given.args, dict(given.kwargs), dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        raise WellfitError(
            f"torch.export cannot follow the network{place_of(error, model)}: {said(error).rstrip('.')}; it takes "
            "operations of torch on tensors, and no decisions by their values"
        ) from error
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of the user's code and where they lie, which are not for the file
    made.example_inputs = None  # nor are the user's data
    return _described(made)


def _described(made: ExportedProgram) -> Program:
    """With its inputs and outputs, and the batch called so."""
    values = {node.name: node.meta["val"] for node in made.graph.nodes if "val" in node.meta}
    signature = made.graph_signature
    ends = [
        [(name, values[name]) for name in names if isinstance(name, str) and torch.is_tensor(values.get(name))]
        for names in (signature.user_inputs, signature.user_outputs)
    ]
    sizes = [_size(value.shape[0]) for _, value in ends[0] if value.dim()]
    symbol = next((size for size in sizes if isinstance(size, str)), None)
    inputs, outputs = (tuple(_port(name, value, symbol) for name, value in end) for end in ends)
    called = [node.target for node in made.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    others = dict.fromkeys(str(one) for one in called if one.namespace not in ("aten", "prim", "prims"))
    return Program(made, symbol is not None, inputs, outputs, tuple(others))


def _port(name: str, value: torch.Tensor, symbol: str | None) -> Port:
    sizes = (_size(size) for size in value.shape)
    shape = (size if isinstance(size, int) else re.sub(rf"\b{symbol}\b", "batch", size) for size in sizes)
    return Port(name, str(value.dtype).removeprefix("torch."), tuple(shape))


def _size(size: Any) -> int | str:
    """A number, or a formula of symbols. A symbol that turned out to be a number is still a SymInt."""
    text = str(size)
    return int(text) if text.isdecimal() else text
