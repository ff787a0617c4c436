"""Calling the user's model by way of trial: what it leaves behind is put back."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from wellfit.overrides.program import Program

_OWN = ("_parameters", "_buffers", "_modules")


@contextlib.contextmanager
def no_trace(program: Program, root: nn.Module) -> Iterator[None]:
    """What is called in here leaves buffers, attributes, modes, random numbers and standard output as they were."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(program.unseen())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_same_random_numbers())
        stack.enter_context(_same_state(root))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python, numpy = random.getstate(), numpy_random.get_state() if numpy_random is not None else None
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            if numpy_random is not None:
                numpy_random.set_state(numpy)


@contextlib.contextmanager
def _same_state(root: nn.Module) -> Iterator[None]:
    modules = list(root.modules())
    buffers = [(buffer, buffer.detach().clone()) for buffer in root.buffers()]
    registers = [(module, dict(module._buffers)) for module in modules]
    # No node of a graph is made for a parameter: it would outlive the trial, and know the parameter's size.
    trained = [parameter for parameter in root.parameters() if parameter.requires_grad]
    attributes = [(module, {key: _kept(value) for key, value in vars(module).items()}) for module in modules]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, held in registers:
            module._buffers.clear()
            module._buffers.update(held)
        for module, values in attributes:
            _restore(module, values)


def _kept(value: Any) -> tuple[Any, Any]:
    """A value, and its contents where it is a plain container that the model may change in place."""
    return value, value.copy() if type(value) in (list, dict, set) else None


def _restore(module: nn.Module, values: dict[str, tuple[Any, Any]]) -> None:
    now = vars(module)
    for key in [key for key in now if key not in values]:
        del now[key]
    for key, (value, contents) in values.items():
        if key in _OWN or key.endswith("hooks"):
            continue
        now[key] = value
        if contents is not None and contents != value:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(contents)
