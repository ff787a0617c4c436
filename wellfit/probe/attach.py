"""The one file that changes torch's global state, and puts all of it back.

What torch has a public hook for is hooked (optimizer steps, module forward calls); patched is only what has none:
`torch.autograd.backward`, the constructors of modules, optimizers, schedulers and loaders, `zero_grad`, `train`,
`no_grad`, the loss functions, GradScaler and `torch.compile`. Every patch calls the original with the same arguments
and gives back its result or its exception.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, RandomSampler

from wellfit.probe.events import backward_event, step_events, zero_event
from wellfit.probe.fence import Fence, observed, say
from wellfit.probe.locate import location, user_place
from wellfit.probe.losses import FUNCTIONS
from wellfit.probe.observer import Observer
from wellfit.probe.patching import Patches
from wellfit.probe.tracebacks import hide_our_frames

_attached: list[Attachment] = []
_MODULE_FILE = torch.nn.modules.module.__file__


class Attachment:
    """The probe in this process, and everything that it changed in torch.

    Args:
        options: see `Observer`.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.fence = Fence()
        self.fence.detach = self.detach
        self.fence.report = self._report
        self._patches = Patches()
        self._losses: list[tuple[str, Any, Any]] = []  # name, torch's own, ours
        self.observer = Observer(options, self.fence)
        self._install()

    def _report(self, said: str) -> None:
        self.observer.ledger.event("switched-off", error=said)
        self.observer.writer.flush()

    def detach(self) -> None:
        """Put everything back; the record stays as it is."""
        self.observer.now.plain = False
        self.observer.activations.end()
        self.observer.evaluations.end()
        self.observer.trace.stop()
        self._patches.undo_all()

    def flush(self) -> None:
        """Write what is waiting, so that it can be read now."""
        self.fence.guard(self.observer.flush)()

    def close(self) -> None:
        """Stop watching for good."""
        self.fence.guard(self.observer.end)()
        self.fence.off = True
        self.detach()
        if self in _attached:
            _attached.remove(self)

    def _install(self) -> None:
        self._patch_steps()
        self._patch_births()
        self._patch_modes()
        self._patch_losses()
        self._patch_scaler()
        self.observer.clipping.patch(self._patches, self.fence)
        compiled = self.fence.guard(self.observer.compile_called)

        def with_compile(original: Any) -> Any:
            def compile(*args: Any, **kwargs: Any) -> Any:
                compiled()
                self._release_functions()
                return original(*args, **kwargs)

            return compile

        self._patches.patch(torch, "compile", with_compile)

    def _patch_steps(self) -> None:
        """The events of every step."""
        before, after = step_events(self.observer, self.fence)
        self._before_step = register_optimizer_step_pre_hook(before)
        self._patches.undo += [lambda: self._before_step.remove(), register_optimizer_step_post_hook(after).remove]

        def on_plain(plain: bool) -> None:
            self._before_step.remove()
            if not plain:
                self._before_step = register_optimizer_step_pre_hook(before)
            self._show_losses(not plain)

        self.observer.on_plain = on_plain
        self._patches.patch(torch.autograd, "backward", backward_event(self.observer, self.fence))
        with_zero = zero_event(self.observer, self.fence)
        self._patches.patch(torch.optim.Optimizer, "zero_grad", with_zero)
        self._patches.patch(torch.nn.Module, "zero_grad", with_zero)

    def _patch_births(self) -> None:
        """Constructors: where the user made a module, an optimizer, a scheduler, a loader."""
        observer, guard = self.observer, self.fence.guard

        def after_init(note: Callable[[Any], None]) -> Callable[[Any], Any]:
            noted = guard(note)

            def make(original: Any) -> Any:
                def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                    original(self, *args, **kwargs)
                    noted(self)

                return __init__

            return make

        def scheduler(made: Any) -> None:
            held = observer.optimizers.held(made.optimizer) if hasattr(made, "optimizer") else None
            settings = {key: value for key, value in vars(made).items() if isinstance(value, (bool, int, float))}
            fields: dict[str, Any] = {"class": type(made).__name__, "location": location(user_place())}
            fields["settings"] = {key: value for key, value in settings.items() if not key.startswith("_")}
            observer.ledger.declare("scheduler", **fields, optimizer=held and held.id)

        loaders: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        iterated = guard(lambda made: observer.epoch(loaders.get(made, -1)))

        def with_iter(original: Any) -> Any:
            def __iter__(self: Any) -> Any:
                iterated(self)
                return original(self)

            return __iter__

        self._patches.patch(DataLoader, "__iter__", with_iter)

        def loader(made: Any) -> None:
            sampler = type(getattr(made, "sampler", None)).__name__
            number = observer.ledger.declare(
                "loader", location=location(user_place()), batch_size=made.batch_size,
                shuffle=isinstance(getattr(made, "sampler", None), RandomSampler),
                num_workers=made.num_workers, drop_last=made.drop_last, sampler=sampler,
            )  # fmt: skip
            loaders[made] = number

        self._patches.patch(
            torch.nn.Module, "__init__", after_init(lambda made: observer.layers.born(made))
        )  # a fork changes `layers`
        self._patches.patch(torch.optim.Optimizer, "__init__", after_init(observer.optimizers.born))
        self._patches.patch(lr_scheduler.LRScheduler, "__init__", after_init(scheduler))
        self._patches.patch(DataLoader, "__init__", after_init(loader))

    def _patch_modes(self) -> None:
        """train(), eval(), no_grad and its kin: where training pauses."""
        observer, guard = self.observer, self.fence.guard
        mode_set, pause = guard(observer.mode_set), guard(observer.pause)

        def with_eval(original: Any) -> Any:
            def eval(self: Any) -> Any:
                mode_set(self, False)
                return original(self)

            return eval

        def with_train(original: Any) -> Any:
            def train(self: Any, mode: bool = True) -> Any:
                if sys._getframe(1).f_code.co_filename != _MODULE_FILE:  # not torch's own walk through the children
                    mode_set(self, bool(mode))
                return original(self, mode)

            return train

        def with_enter(original: Any) -> Any:
            def __enter__(self: Any) -> Any:
                result = original(self)
                if (
                    observer.trained
                    and not torch.is_grad_enabled()
                    and "torch" not in sys._getframe(1).f_code.co_filename
                ):
                    pause()
                return result

            return __enter__

        self._patches.patch(torch.nn.Module, "eval", with_eval)
        self._patches.patch(torch.nn.Module, "train", with_train)
        self._patches.patch(torch.no_grad, "__enter__", with_enter)
        self._patches.patch(torch.inference_mode, "__enter__", with_enter)
        self._patches.patch(torch.set_grad_enabled, "__enter__", with_enter)

    def _patch_losses(self) -> None:
        observer, called = self.observer, self.fence.guard(self.observer.loss_called)
        trace = observer.trace
        paused, resumed = self.fence.guard(trace.pause), self.fence.guard(trace.resume)
        inside = [False]  # torch calls some of these from others, and each again through a function mode

        def with_loss(name: str) -> Callable[[Any], Any]:
            def make(original: Any) -> Any:
                def loss(*args: Any, **kwargs: Any) -> Any:
                    if inside[0] or observer.compiled:
                        return original(*args, **kwargs)
                    inside[0] = True
                    traced = trace.pushed and paused()
                    try:
                        result = original(*args, **kwargs)
                    finally:
                        inside[0] = False
                    if traced:
                        resumed(name, args, result)
                    if observer.watching or observed() or not result.requires_grad:
                        called(name, args, kwargs, result)
                    return result

                return loss

            return make

        self._losses = [(name, getattr(F, name), self._patches.patch(F, name, with_loss(name))) for name in FUNCTIONS]

    def _show_losses(self, shown: bool) -> None:
        """Plain steps need no look at the loss functions: until training pauses, torch's own are in their places."""
        for name, original, wrapper in self._losses:
            if getattr(F, name) is (original if shown else wrapper):
                setattr(F, name, wrapper if shown else original)

    def _release_functions(self) -> None:
        """Functions that a compiler may trace are given back."""
        self._show_losses(False)
        self._losses = []

    def _patch_scaler(self) -> None:
        observer, guard = self.observer, self.fence.guard
        scaled, skipped = guard(observer.backwards.scaled), guard(observer.skipped_step)
        steps_of = guard(observer.steps_of)

        def with_scale(original: Any) -> Any:
            def scale(self: Any, outputs: Any) -> Any:
                result = original(self, outputs)
                scaled(outputs, result)
                return result

            return scale

        def with_step(original: Any) -> Any:
            def _maybe_opt_step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
                steps = steps_of(optimizer)
                result = original(self, optimizer, *args, **kwargs)
                if steps_of(optimizer) == steps:
                    skipped(self._scale if isinstance(self._scale, float) else 0.0)
                return result

            return _maybe_opt_step

        def with_hooks(original: Any) -> Any:
            def __enter__(self: Any) -> Any:
                observer.backwards.packed = True
                return original(self)

            return __enter__

        self._patches.patch(torch.autograd.graph.saved_tensors_hooks, "__enter__", with_hooks)
        self._patches.patch(torch.amp.GradScaler, "scale", with_scale)
        self._patches.patch(torch.amp.GradScaler, "_maybe_opt_step", with_step)


def attach(torch_module: Any, options: dict[str, Any]) -> Attachment:
    """Watch this process from here on.

    Args:
        torch_module: torch, just imported (the caller's proof that it is there).
        options: run (absolute folder), overhead (share), quota (bytes), seed.
    """
    if _attached:
        return _attached[-1]
    attachment = Attachment(options)
    _attached.append(attachment)
    _once()
    return attachment


@functools.cache
def _once() -> None:
    """What is registered with the interpreter, where nothing can be taken back: once in a process."""
    atexit.register(_end)
    hide_our_frames(_exception)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)


def current() -> Attachment | None:
    """The attachment of this process, if it is watched."""
    return _attached[-1] if _attached else None


def _end() -> None:
    for attachment in _attached:
        attachment.fence.guard(attachment.observer.end)()


def _exception(kind: Any, value: Any, trace: Any) -> None:
    for attachment in _attached:
        if attachment.observer.trained and not attachment.fence.off:
            attachment.fence.guard(attachment.observer.look_at_death)(str(value), trace)
            place = None
            while trace is not None:
                place, trace = (os.path.abspath(trace.tb_frame.f_code.co_filename), trace.tb_lineno), trace.tb_next
            attachment.fence.guard(attachment.observer.ledger.event)(
                "exception", **{"class": kind.__name__, "message": str(value)[:500], "location": location(place)}
            )


def _forked() -> None:
    """In a forked child: forget the parent's run; a child that trains (not a loader's worker) begins its own record."""
    if not _attached:
        return
    try:
        old = _attached.pop()
        old.fence.off = True
        old.detach()
        _attached.append(Attachment(old.options))
        _attached[-1].observer.adopt(old.observer)
        _end_with_workers()
    except Exception as error:
        say(f"could not watch a forked process ({type(error).__name__}: {error}); it runs unwatched")


def _end_with_workers() -> None:
    """Processes of multiprocessing leave by os._exit, past atexit, but run its finalizers."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Such a process begins by forgetting all finalizers, and then calls this.
        util.register_after_fork(_end, lambda end: util.Finalize(None, end, exitpriority=100))
