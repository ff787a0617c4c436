"""The places in torch where overrides act: the other file that changes torch's global state, and can put it back.

Only what the overrides of this run need is patched, over the probe's own patches: the probe records what overrides made
of a call.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import threading
import types
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from wellfit.overrides.calls import ForwardCall, LossCall
from wellfit.overrides.catalogue import from_json
from wellfit.overrides.program import Program
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
        for patch in (_optimizers, _loaders, _models, _losses, _backward):
            patch(program)
    except Exception as error:
        say(f"the overrides could not be applied ({type(error).__name__}: {error}); nothing was trained")
        raise SystemExit(2) from None
    atexit.register(program.ended)
    program.call("begin")
    return program


def _optimizers(program: Program) -> None:
    making: list[list[Any]] = []  # while an optimizer may be replaced: those that were made meanwhile

    def with_new(original: Any) -> Any:
        def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if making or not (args or kwargs):  # without arguments it is copied or unpickled
                return original(cls)
            made: list[Any] = []
            making.append(made)
            try:
                with program.unseen():
                    own = cls(*args, **kwargs)
                parts = list(made)  # it may have made others for itself
                other = program.first_answer("replace_optimizer", own)
            finally:
                making.pop()
            for each in parts if other is None else [other]:
                program.tell_probe(each)
                _wrap_step(program, each)
                program.made_optimizer(each)
            given = own if other is None else other
            if isinstance(given, cls):
                _leave_out_constructor(program, given)
            return given

        return __new__

    def with_init(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if making:
                making[-1].append(self)
            else:
                _wrap_step(program, self)
                program.made_optimizer(self)

        return __init__

    if program.wants("replace_optimizer"):
        program.patch(Optimizer, "__new__", with_new)
    program.patch(Optimizer, "__init__", with_init)
    if program.wants("skip_zero_grad"):

        def with_zero(original: Any) -> Any:
            def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
                return None if program.asked("skip_zero_grad", self) else original(self, *args, **kwargs)

            return zero_grad

        program.patch(Optimizer, "zero_grad", with_zero)
        program.patch(nn.Module, "zero_grad", with_zero)


_constructed: weakref.WeakSet[Any] = weakref.WeakSet()  # optimizers whose next constructor call is left out


def _leave_out_constructor(program: Program, optimizer: Any) -> None:
    """Python calls the constructor on what `__new__` gives back, and this one is made already."""
    kind = type(optimizer)

    def with_init(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            if self in _constructed:
                _constructed.discard(self)
            else:
                original(self, *args, **kwargs)

        return __init__

    if kind not in program.patched:
        program.patched.add(kind)
        program.patch(kind, "__init__", with_init)
    _constructed.add(optimizer)


_stepping = threading.local()  # set: an optimizer that steps now is part of another (SAM, for example)


def _wrap_step(program: Program, optimizer: Any) -> None:
    """An optimizer's own `step`, on the instance: schedulers and scalers call it there too."""

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = type(self).step
        if getattr(_stepping, "now", False):
            return own(self, *args, **kwargs)
        closure = args[0] if args else kwargs.get("closure")
        program.closure = callable(closure)
        if program.asked("skip_step", self):
            return None
        program.begin_step(self)
        if not callable(closure):
            _unscale(program, self)
            program.call("gradients", self)
        elif args:
            args = (_with_gradients(program, self, closure), *args[1:])
        else:
            kwargs["closure"] = _with_gradients(program, self, closure)
        told = program.under_way()
        try:
            program.call("before_step", self)
            _stepping.now = True
            return own(self, *args, **kwargs)
        finally:
            _stepping.now = False
            program.end_step(told, self)

    optimizer.step = types.MethodType(step, optimizer)


def _unscale(program: Program, optimizer: Any) -> None:
    """A GradScaler leaves it to a fused optimizer to divide by the scale; overrides want the gradient itself."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None and program.wants("gradients"):
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            parameter.grad.div_(scale.to(parameter.grad.device))
        optimizer.grad_scale = None


def _with_gradients(program: Program, optimizer: Any, closure: Any) -> Any:
    def with_gradients() -> Any:
        loss = closure()
        program.call("gradients", optimizer)
        return loss

    return with_gradients


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
    if not program.wants("loss"):
        return
    inside = [False]
    functions = {name: getattr(F, name) for name in FUNCTIONS}  # the probe's, which call torch's own

    def with_loss(name: str) -> Any:
        def make(original: Any) -> Any:
            signature = inspect.signature(inspect.unwrap(original))

            def loss(*args: Any, **kwargs: Any) -> Any:
                if inside[0]:
                    return original(*args, **kwargs)
                bound = signature.bind(*args, **kwargs).arguments
                (_, prediction), (_, target), *rest = bound.items()
                call = LossCall(name, prediction, target, dict(rest), prediction.requires_grad)
                inside[0] = True
                try:
                    program.call("loss", call)
                    return functions[call.function](call.prediction, call.target, **call.options)
                finally:
                    inside[0] = False

            return loss

        return make

    for name in FUNCTIONS:
        program.patch(F, name, with_loss(name))


def _backward(program: Program) -> None:
    inside = [False]

    def with_backward(original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if inside[0]:
                return original(tensors, *args, **kwargs)
            inside[0] = True
            try:
                program.backward(tensors)
                return original(tensors, *args, **kwargs)
            finally:
                inside[0] = False

        return backward

    program.patch(torch.autograd, "backward", with_backward)
