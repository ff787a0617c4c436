"""The events of every step: backward, the optimizer's step, zero_grad.

On a plain step (`Moment.plain`) the functions here append to a log and do nothing else; every other event goes to the
observer. They are written out in one piece each, over variables of their own, because of what `Moment` says of caches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from typing import Any

import torch

from wellfit.probe.backwards import NO_SITE
from wellfit.probe.fence import Fence, dispatch_modes, function_modes, observed, out_of_sight
from wellfit.probe.observer import Observer

_Tensor = torch.Tensor


def backward_event(observer: Observer, fence: Fence) -> Callable[[Any], Any]:
    """What makes the replacement of `torch.autograd.backward`."""
    now, quick, note = observer.now, observer.backwards.quick, observer.now.log.append
    get_frame, failed = sys._getframe, fence.guard(observer.backward_failed)

    def with_backward(original: Any) -> Any:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            noted = None
            if now.plain and not now.in_backward and now.owner == get_ident():
                try:
                    frame = get_frame(2)
                    if frame.f_code is now.site_code and frame.f_lasti == now.site_at:
                        site = now.site
                    else:
                        site = quick.get((id(frame.f_code), frame.f_lasti), NO_SITE)[0]
                    if (
                        site >= 0
                        and now.scaled is None
                        and type(tensors) is _Tensor
                        and tensors.is_cpu
                        and not function_modes()
                        and not dispatch_modes()
                    ):
                        value = tensors.item()
                        if value - value == 0.0 and type(value) is float:
                            noted = (site, value)
                except Exception:  # not one number, or called at the top of a program: the observer knows what to do
                    noted = None
            if noted is None:
                if now.in_backward or fence.off or (now.owner is not None and now.owner != get_ident()):
                    return original(tensors, *args, **kwargs)
                try:
                    frame, before = get_frame(1), observer.before_backward
                    retained = bool(kwargs.get("retain_graph", args[1] if len(args) > 1 else None))
                    out_of_sight(before)(tensors, frame, retained) if observed() else before(tensors, frame, retained)
                except Exception as error:
                    fence.fault(error)
            now.in_backward = True
            try:
                result = original(tensors, *args, **kwargs)
            except BaseException:
                now.in_backward = False
                failed(noted)
                raise
            now.in_backward = False
            if noted is not None:
                note(noted)
            elif not fence.off:
                try:
                    after = observer.after_backward
                    out_of_sight(after)() if observed() else after()
                except Exception as error:
                    fence.fault(error)
            return result

        return backward

    return with_backward


def step_events(observer: Observer, fence: Fence) -> tuple[Callable[..., None], Callable[..., None]]:
    """The hooks before and after an optimizer's step; the first is not needed on plain steps."""
    now, optimizers, note, clock = observer.now, observer.optimizers, observer.now.log.append, perf_counter

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        if not fence.off:
            try:
                event = observer.before_step
                out_of_sight(event)(optimizer) if observed() else event(optimizer)
            except Exception as error:
                fence.fault(error)

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:
        try:
            if now.plain:
                held, groups, at, left = now.held, optimizer.param_groups, clock(), now.left - 1
                if held is None or held.reference() is not optimizer:
                    held = now.held = optimizers.known.get(id(optimizer))
                    if held is not None and (held.reference() is not optimizer or held.code < 0):
                        held = now.held = None
                if left > 0 and at < now.next_flush and held is not None and now.owner == get_ident():
                    if groups and groups[0].get("lr") is not held.lr:
                        optimizers.follow(held, optimizer)
                    now.left = left
                    note((held, at))
                    return
            if fence.off:
                return
            event = observer.after_step  # the step may end here, and much be done that torch takes part in
            out_of_sight(event)(optimizer) if observed() else event(optimizer)
        except Exception as error:
            fence.fault(error)

    return before, after


def zero_event(observer: Observer, fence: Fence) -> Callable[[Any], Any]:
    """What makes the replacement of `zero_grad` of optimizers and modules."""
    now, note = observer.now, observer.now.log.append

    def with_zero(original: Any) -> Any:
        def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                held = now.held
                if now.plain and held is not None and held.reference() is self and held.zero_code >= 0:
                    note(held.zero_code)
                elif not now.in_step and not fence.off and (now.owner is None or now.owner == get_ident()):
                    observer.zero_grad(self)
            except Exception as error:
                fence.fault(error)
            return original(self, *args, **kwargs)

        return zero_grad

    return with_zero
