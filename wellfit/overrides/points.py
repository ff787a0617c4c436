"""The places in torch where overrides act: beside the probe's, these patches alone change torch's global state.

Only what the overrides of this run need is patched, over the probe's own patches: the probe records what overrides made
of a call. Those of optimizers are in `stepping`.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from wellfit.overrides.calls import ForwardCall, LossCall
from wellfit.overrides.catalogue import from_json
from wellfit.overrides.program import Program
from wellfit.overrides.stepping import patch_optimizers
from wellfit.probe.attach import Attachment
from wellfit.probe.fence import say
from wellfit.probe.losses import FUNCTIONS


def install(entries: Any, attachment: Attachment) -> Program:
    """Apply overrides to this process.

    Args:
        entries: as JSON, see `catalogue.as_json`.
        attachment: the probe of this process.

    Raises:
        SystemExit: they cannot be applied, which was said: what would run is not what was asked for.
    """
    try:
        program = Program(from_json(entries), attachment)
        for patch in (patch_optimizers, _loaders, _models, _losses, _backward):
            patch(program)
    except Exception as error:
        say(f"the overrides could not be applied ({type(error).__name__}: {error}); nothing was trained")
        raise SystemExit(2) from None
    atexit.register(program.ended)
    program.call("begin")
    return program


def _loaders(program: Program) -> None:
    if program.wants("loader"):

        def with_init(original: Any) -> Any:
            signature = inspect.signature(original)

            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                bound = signature.bind(self, *args, **kwargs)
                bound.apply_defaults()
                arguments = dict(bound.arguments)
                arguments.pop("self")
                program.call("loader", arguments)
                original(self, **arguments)

            return __init__

        program.patch(DataLoader, "__init__", with_init)
    if program.wants("batches"):

        def with_made(original: Any) -> Any:
            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                original(self, *args, **kwargs)
                program.made_loader(self)

            return __init__

        program.patch(DataLoader, "__init__", with_made)

        def with_iter(original: Any) -> Any:
            def __iter__(self: Any) -> Any:
                return program.through("batches", (self,), original(self))

            return __iter__

        program.patch(DataLoader, "__iter__", with_iter)


def _models(program: Program) -> None:
    if not program.wants("model", "before_forward", "after_forward"):
        return
    state = threading.local()

    def with_call(original: Any) -> Any:
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(state, "inside", False) or next(self.parameters(), None) is None:
                return original(self, *args, **kwargs)
            state.inside = True
            try:
                call = ForwardCall(args, kwargs)
                program.forward(self, call)
                with contextlib.ExitStack() as stack:
                    for context in call.contexts:
                        stack.enter_context(context)
                    try:
                        call.result = original(self, *call.args, **call.kwargs)
                    finally:
                        program.call("after_forward", self, call)
                    return call.result
            finally:
                state.inside = False

        return __call__

    program.patch(nn.Module, "__call__", with_call)


def _losses(program: Program) -> None:
    if not program.wants("loss", "after_loss"):
        return
    state = threading.local()  # of each thread: torch calls some of these from others
    functions = {name: getattr(F, name) for name in FUNCTIONS}  # the probe's, which call torch's own

    def with_loss(name: str) -> Any:
        def make(original: Any) -> Any:
            signature = inspect.signature(inspect.unwrap(original))

            def loss(*args: Any, **kwargs: Any) -> Any:
                if getattr(state, "inside", False):
                    return original(*args, **kwargs)
                bound = signature.bind(*args, **kwargs).arguments
                (_, prediction), (_, target), *rest = bound.items()
                call = LossCall(name, prediction, target, dict(rest), prediction.requires_grad)
                state.inside = True
                try:
                    program.call("loss", call)
                    call.result = functions[call.function](call.prediction, call.target, **call.options)
                    program.call("after_loss", call)
                    return call.result
                finally:
                    state.inside = False

            return loss

        return make

    for name in FUNCTIONS:
        program.patch(F, name, with_loss(name))


def _backward(program: Program) -> None:
    state = threading.local()

    def with_backward(original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(state, "inside", False):
                return original(tensors, *args, **kwargs)
            state.inside = True
            try:
                if program.asked("skip_backward", tensors):
                    return None
                program.backward(tensors)
                return original(tensors, *args, **kwargs)
            finally:
                state.inside = False

        return backward

    program.patch(torch.autograd, "backward", with_backward)
