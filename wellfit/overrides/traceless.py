"""Calling the user's model by way of trial: what it leaves behind is put back."""

from __future__ import annotations

import collections
import contextlib
import io
import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from wellfit.overrides.program import Program

_OWN = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (list, dict, set, collections.deque, collections.OrderedDict, collections.defaultdict)
_DEPTH, _MOST = 4, 1000  # how far containers in containers are followed, and up to how many items


@contextlib.contextmanager
def no_trace(program: Program, root: nn.Module) -> Iterator[None]:
    """What is called in here leaves the model, random numbers and standard output as they were.

    Of the model that is: parameters' `requires_grad`, buffers, and the attributes of its modules: which values they
    are, what is in those that are tensors, lists, dictionaries, sets and deques, and in such containers in them (where
    these have no more than a thousand items). Not put back is what lies elsewhere: in objects of other classes that a
    module holds, in global variables, in files.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(program.unseen())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(same_random_numbers())
        stack.enter_context(_same_state(root))
        stack.enter_context(_no_fast_path())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Python's, numpy's and torch's random numbers go on after it as if nothing had been drawn in here."""
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
def _no_fast_path() -> Iterator[None]:
    """torch's fast path for transformers calls no modules inside of its layers."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextlib.contextmanager
def _same_state(root: nn.Module) -> Iterator[None]:
    modules = list(root.modules())
    buffers = _Tensors(buffer for buffer in root.buffers() if not is_lazy(buffer))
    registers = [(module, dict(module._buffers)) for module in modules]
    # No node of a graph is made for a parameter: it would outlive the trial, and know the parameter's size.
    trained = [parameter for parameter in root.parameters() if parameter.requires_grad]
    attributes = [_Attributes(module) for module in modules]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
        buffers.put_back()
        for module, held in registers:
            module._buffers.clear()
            module._buffers.update(held)
        for each in attributes:
            each.put_back()


class _Tensors:
    """What is in some tensors."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._before = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def put_back(self) -> None:
        """Tensors that were changed in place get back what was in them."""
        for tensor, before in self._before:
            # Not written to where nothing was changed, and past the version counter: a graph may hold it. What cannot
            # be written to (all of its elements in one place, say) cannot have been changed.
            with contextlib.suppress(RuntimeError):
                if tensor.shape != before.shape:
                    tensor.data = before
                elif not torch.equal(tensor.detach(), before):
                    tensor.data.copy_(before)


class _Attributes:
    """The attributes of a module: its own registers and hooks apart."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._values = {key: value for key, value in vars(module).items() if not _is_torchs(key)}
        self._contents: dict[int, tuple[Any, Any]] = {}  # a container, and what is in it
        tensors: dict[int, torch.Tensor] = {}
        for value in self._values.values():
            self._keep(value, tensors, _DEPTH)
        self._tensors = _Tensors(tensors.values())

    def _keep(self, value: Any, tensors: dict[int, torch.Tensor], depth: int) -> None:
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
            tensors[id(value)] = value
        if not depth or id(value) in self._contents or type(value) not in (*_CONTAINERS, tuple):
            return
        if type(value) is not tuple:
            self._contents[id(value)] = value, list(value.items() if isinstance(value, dict) else value)
        if len(value) <= _MOST:
            for item in value.values() if isinstance(value, dict) else value:
                self._keep(item, tensors, depth - 1)

    def put_back(self) -> None:
        """The same values, with the same in them."""
        now = vars(self._module)
        for key in [key for key in now if key not in self._values and not _is_torchs(key)]:
            del now[key]
        now.update(self._values)
        self._tensors.put_back()
        for container, contents in self._contents.values():
            container.clear()
            (container.extend if isinstance(container, (list, collections.deque)) else container.update)(contents)


def _is_torchs(key: str) -> bool:
    return key in _OWN or key.endswith("hooks")
