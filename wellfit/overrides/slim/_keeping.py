"""A model's weights, and what overrides have made of them, in two files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wellfit.overrides.slim import _safetensors
from wellfit.overrides.slim._changed import changes_of
from wellfit.overrides.slim._files import plain
from wellfit.overrides.slim._latent import made_of

if TYPE_CHECKING:
    from wellfit.overrides.program import Program

VERSION = 1


def keep(program: Program, root: nn.Module, path: str, evaluations: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Write the weights of a model into `path`, and what is known of them beside it, with .json in place of its ending.

    Returns:
        what could not be written, with the reason.
    """
    parts, tensors, tied, omitted = [], {}, [], []
    first: dict[Any, str] = {}
    parameters = {id(parameter) for parameter in root.parameters()}
    for full, value in root.state_dict(keep_vars=True).items():
        name = plain(full)
        if not isinstance(value, torch.Tensor) or not _safetensors.can_write(value):
            omitted.append((name, "it is no tensor that safetensors can hold"))
            continue
        if id(value) in first:
            tied.append([name, first[id(value)]])
            continue
        first[id(value)] = name
        tensors[name] = value
        parts.append(_about(program, root, full, name, value, id(value) in parameters))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _safetensors.write(path, tensors, {"wellfit": json.dumps({"version": VERSION, "tied": tied})})
    about = {
        "version": VERSION, "file": os.path.basename(path), "model": type(root).__name__, "steps": program.step,
        "tensors": parts, "tied": tied, "changes": changes_of(root), "evaluations": list(evaluations),
    }  # fmt: skip
    write_json(os.path.splitext(path)[0] + ".json", about)
    return omitted


def write_json(path: str, told: dict[str, Any]) -> None:
    """Write a file of JSON, all of it or nothing."""
    path = os.path.abspath(path)
    with open(path + ".part", "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)
    os.replace(path + ".part", path)


def _about(
    program: Program, root: nn.Module, full: str, name: str, value: torch.Tensor, is_parameter: bool
) -> dict[str, Any]:
    module = root.get_submodule(full.rpartition(".")[0])
    return {
        "name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."),
        "kind": "parameter" if is_parameter else "buffer", "layer": name.rpartition(".")[0],
        "class": type(module).__name__, **_groups(module), **made_of(program, value),
    }  # fmt: skip


def _groups(module: nn.Module) -> dict[str, int]:
    """Of a convolution that has several."""
    groups = module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1
    return {"groups": groups} if groups != 1 else {}
