"""Weights in files, and how they fit into a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from wellfit.errors import WellfitError
from wellfit.overrides.slim import _safetensors
from wellfit.overrides.words import in_short, listed

if TYPE_CHECKING:
    from wellfit.overrides.program import Program

_INSIDE = ("model", "state_dict", "model_state_dict", "model_state", "module", "net", "network", "weights", "params")
_AROUND = ("module.", "_orig_mod.")  # what wrappers of torch put before names


class Unlike(WellfitError):
    """The weights of a file belong to another model."""


@dataclass(frozen=True)
class Weights:
    """The weights of a file.

    Attributes:
        file: its name.
        tensors: by name.
        changes: of the model's structure, to be made before, as JSON (of a .wfz file).
    """

    file: str
    tensors: dict[str, torch.Tensor]
    changes: tuple[Any, ...] = ()

    def put_into(self, root: nn.Module) -> int:
        """Give a model these weights, in place; how many tensors there were.

        Raises:
            Unlike: no name is known to the model.
            WellfitError: some names are missing or too many, or a shape is another.
        """
        if self.changes:
            changes = import_module("wellfit.slim.changes")
            changes.redo_all(root, changes.from_json(list(self.changes)))
        pairs = self._pairs(root)
        with torch.no_grad():
            for own, given in pairs:
                own.data.copy_(given)
        return len(pairs)

    def _pairs(self, root: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        own = {plain(name): tensor for name, tensor in _state(root).items()}
        given = _named_alike({plain(name): tensor for name, tensor in self.tensors.items()}, own)
        kind = type(root).__name__
        if not set(own) & set(given):
            raise Unlike(f"{self.file} has the weights of another model: {listed(given)}; {kind} has {listed(own)}")
        lazy = next((name for name, tensor in own.items() if is_lazy(tensor)), None)
        if lazy is not None:
            raise WellfitError(f"{lazy} of {kind} has no size before its first call")
        there = {id(own[name]) for name in given if name in own}  # a shared tensor is given once
        missing = [name for name, tensor in own.items() if name not in given and id(tensor) not in there]
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        more = [name for name in given if name not in own]
        for names, what in ((missing, "does not have"), (more, "has too many weights for this model:")):
            if names:
                raise WellfitError(f"{self.file} {what} {listed(names)} ({kind})")
        for name, tensor in given.items():
            if tensor.shape != own[name].shape:
                raise WellfitError(
                    f"{name} has the shape {list(tensor.shape)} in {self.file}, and {list(own[name].shape)} in {kind}"
                )
        return [(own[name], tensor) for name, tensor in given.items()]


def checked_path(path: str, name: str) -> str:
    """The absolute path of a file that is there.

    Raises:
        WellfitError: there is none.
    """
    if not os.path.isfile(path):
        raise WellfitError(f'there is no file "{path}"; {name} wants one with weights (.pt, .safetensors or .wfz)')
    return os.path.abspath(path)


def weights_in(program: Program, path: str) -> Weights:
    """The weights of a file: .safetensors, .wfz, or what `torch.load(weights_only=True)` reads.

    Raises:
        WellfitError: it cannot be read, or holds no weights.
    """
    with program.unseen():
        return read_weights(path)


def read_weights(path: str) -> Weights:
    """The same, outside of a user's program."""
    file = os.path.basename(path)
    try:
        if path.endswith(".safetensors"):
            return Weights(file, _safetensors.read(path))
        if path.endswith(".wfz"):
            return _from_wfz(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except WellfitError:
        raise
    except Exception as error:
        raise WellfitError(f"{file} cannot be read as weights: {in_short(error)}") from None
    tensors = _tensors_in(held)
    if tensors is None:
        raise WellfitError(f"{file} holds no weights: neither tensors by name, nor such under {', '.join(_INSIDE)}")
    return Weights(file, tensors)


def _from_wfz(path: str) -> Weights:
    from wellfit.slim import wfz

    contents = wfz.read(path)
    tensors: dict[str, torch.Tensor] = {}
    for name, array in contents.tensors().items():  # numpy has no bfloat16: those come as their bits
        tensors[name] = torch.from_numpy(array.copy()).view(getattr(torch, contents.stored[name].dtype))
    return Weights(os.path.basename(path), tensors, tuple(contents.changes))


def _tensors_in(held: Any, depth: int = 2) -> dict[str, torch.Tensor] | None:
    """The tensors by name of a checkpoint."""
    if not isinstance(held, Mapping):
        return None
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    if len(tensors) == len(held) and tensors:
        return {str(name): value for name, value in tensors.items()}
    inside = (_tensors_in(held[key], depth - 1) for key in _INSIDE if key in held and depth)
    found = next((one for one in inside if one is not None), None)
    # A state_dict may hold more than tensors (`get_extra_state`).
    return found or (
        {str(name): value for name, value in tensors.items()} if any("." in str(n) for n in tensors) else None
    )


def _state(root: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name, themselves."""
    return {name: value for name, value in root.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}


def plain(name: str) -> str:
    """A name without what wrappers put before it and into it."""
    for around in _AROUND:
        name = name.removeprefix(around)
    return name.replace("._orig_mod.", ".")


def _named_alike(given: dict[str, torch.Tensor], own: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The same tensors, without a first word that stands before all names ("model." of a Lightning checkpoint)."""
    words = {name.partition(".")[0] for name in given}
    if set(given) & set(own) or len(words) != 1:
        return given
    shorter = {name.partition(".")[2]: tensor for name, tensor in given.items()}
    same = len(set(shorter) & set(own))  # one word alone ("weight") may be that of any model
    return shorter if 2 * same > max(len(own), len(shorter)) else given
