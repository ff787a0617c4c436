"""The places in torch's optimizers where overrides act: when one is made, replaced or copied, and in each of its steps.

Installed by `points`.
"""

from __future__ import annotations

import copy
import threading
import weakref
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR

from wellfit.overrides.program import Program


def patch_optimizers(program: Program) -> None:
    """Let overrides act on optimizers."""
    making: list[list[Any]] = []  # while an optimizer may be replaced: those that were made meanwhile
    if program.wants("replace_optimizer"):
        _replace(program, making)

    def with_init(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            if making:
                making[-1].append(self)
            else:
                _follow_steps(program, type(self))
                program.made_optimizer(self)

        return __init__

    program.patch(Optimizer, "__init__", with_init)
    _copies(program, making)
    _cycles(program)
    if program.wants("skip_zero_grad"):

        def with_zero(original: Any) -> Any:
            def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
                return None if program.asked("skip_zero_grad", self) else original(self, *args, **kwargs)

            return zero_grad

        program.patch(Optimizer, "zero_grad", with_zero)
        program.patch(nn.Module, "zero_grad", with_zero)


# Made -----------------------------------------------------------------------------------------------------------------


def _replace(program: Program, making: list[list[Any]]) -> None:
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
                _follow_steps(program, type(each))
                program.made_optimizer(each)
            given = own if other is None else other
            if isinstance(given, cls):
                _leave_out_constructor(program, given)
            return given

        return __new__

    program.patch(Optimizer, "__new__", with_new)


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


class _State(dict[str, Any]):
    """What an optimizer gives of itself to be copied. Pickled, it is a plain dictionary.

    Attributes:
        source: that optimizer.
    """

    source: weakref.ref[Any] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _State:
        made = _State({key: copy.deepcopy(value, memo) for key, value in self.items()})
        made.source = self.source
        return made

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def _copies(program: Program, making: list[list[Any]]) -> None:
    """A copy is made past the constructor, and an unpickled one too."""

    def with_getstate(original: Any) -> Any:
        def __getstate__(self: Any) -> Any:
            state = original(self)
            if type(state) is dict and self in program.steps:
                state = _State(state)
                state.source = weakref.ref(self)
            return state

        return __getstate__

    def with_setstate(original: Any) -> Any:
        def __setstate__(self: Any, state: Any) -> None:
            original(self, state)
            # Loading a state calls this too, and a constructor may.
            if making or self in program.steps or not hasattr(self, "param_groups"):
                return
            source = state.source() if isinstance(state, _State) and state.source is not None else None
            _follow_steps(program, type(self))
            if source is not None:
                program.copied_optimizer(source, self)
            else:
                program.made_optimizer(self)

        return __setstate__

    program.patch(Optimizer, "__getstate__", with_getstate)
    program.patch(Optimizer, "__setstate__", with_setstate)


def _cycles(program: Program) -> None:
    """The peak of a cycle stands in the scheduler alone (OneCycleLR writes it into the groups)."""

    def with_init(original: Any) -> Any:
        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            program.made_cycle(self.optimizer, self.max_lrs)

        return __init__

    program.patch(CyclicLR, "__init__", with_init)


# Stepped --------------------------------------------------------------------------------------------------------------

_stepping = threading.local()  # set: an optimizer that steps now is part of another (SAM, for example)
_steps: weakref.WeakSet[Any] = weakref.WeakSet()  # the functions that we put in the place of classes' `step`


def _follow_steps(program: Program, kind: Any) -> None:
    """Wrap the `step` of a class of optimizers.

    On the class, so that no optimizer refers to itself and lives on until the next collection of cycles. Schedulers put
    a wrapper of their own around it, on the instance.
    """

    def with_step(original: Any) -> Any:
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(_stepping, "now", False) or self not in program.steps:
                return original(self, *args, **kwargs)
            program.insist()
            if _is_skipped(self):
                return original(self, *args, **kwargs)
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
                return original(self, *args, **kwargs)
            finally:
                _stepping.now = False
                program.end_step(told, self)

        return step

    if kind.step not in _steps:
        _steps.add(program.patch(kind, "step", with_step))


def _is_skipped(optimizer: Any) -> bool:
    """A GradScaler leaves it to a fused optimizer to leave out a step whose gradients are not finite."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _unscale(program: Program, optimizer: Any) -> None:
    """A GradScaler leaves it to a fused optimizer to divide by the scale; overrides want the gradient itself."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None and program.wants("gradients"):
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            parameter.grad.div_(scale.to(parameter.grad.device))
        optimizer.grad_scale = None


def _with_gradients(program: Program, optimizer: Any, closure: Any) -> Any:
    called = False

    def with_gradients(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        loss = closure(*args, **kwargs)
        if not called:
            called = True
            program.closure_returned(optimizer)
        program.call("gradients", optimizer)
        return loss

    return with_gradients
