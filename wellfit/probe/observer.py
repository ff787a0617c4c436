"""The probe's account of a training run: what is a step, what happened in it, and what of it goes into the record.

The events of every step (`events`) come here only on steps that need more than a row, and where something is odd: a
loss on a device, a second thread, a setting that changed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from threading import get_ident
from time import perf_counter, thread_time
from types import FrameType, TracebackType
from typing import Any

import torch

from wellfit.probe import process
from wellfit.probe.activations import Activations
from wellfit.probe.backwards import Backwards
from wellfit.probe.clearing import Clearing
from wellfit.probe.clipping import Clipping
from wellfit.probe.device import Device
from wellfit.probe.evaluation import Evaluations
from wellfit.probe.fence import Fence, say
from wellfit.probe.governor import Governor
from wellfit.probe.layers import Layer, Layers
from wellfit.probe.ledger import Ledger
from wellfit.probe.locate import cached_place, location, user_frame
from wellfit.probe.losses import Losses
from wellfit.probe.moment import Moment
from wellfit.probe.optimizers import Held, Optimizers
from wellfit.probe.patterns import Patterns
from wellfit.probe.statistics import Meter, Row, is_real
from wellfit.probe.trace import Trace
from wellfit.probe.tracebacks import speaks_of_nan, tensors_in
from wellfit.probe.weights import Weights
from wellfit.probe.writer import STEPS_AT_RISK, Writer

TRACED_STEPS = 2  # steps whose torch calls are logged
DECLARE_AT = (1, 3, 25, 200)  # steps after which layers and parameters are written again
FOLLOWED = 64  # gradients are followed in each of the first steps, then for FOLLOWED_RUN steps after each
FOLLOWED_REST = 64  # steps, or this share of the steps so far: a loop that forgets zero_grad does so from its start
FOLLOWED_SHARE = 1 / 8
FOLLOWED_RUN = 4
FLUSH_SECONDS = 0.5
MANUAL = 255  # stands for the optimizer in loops that have none
_B, _H, _E, _L = b"BHEL"


class Observer:
    """One process's training. `attach` calls it; every call is fenced there.

    Args:
        options: of `wellfit run`: run (folder), overhead (share), quota (bytes), seed, every (see Governor).
    """

    def __init__(self, options: dict[str, Any], fence: Fence) -> None:
        self.fence = fence
        self.started = perf_counter()
        self.writer = Writer(str(options["run"]), *process.rank_and_pid(), int(options.get("quota", 512_000_000)))
        self.governor = Governor(
            float(options.get("overhead", 0.01)), int(options.get("seed", 1)), int(options.get("every", 0))
        )
        self.patterns = Patterns(self.writer.declare)
        self.now = Moment(self.writer.row, self.patterns, self.governor, self.started)
        self.ledger = Ledger(self.writer, self.now)
        declare = self.writer.declare
        self.layers = Layers()
        self.meter = Meter()
        self.device = Device(self.ledger.row)
        self.activations = Activations(
            self.layers, self.meter, self.emit, self.device, lambda: self.now.step, fence.guard, self._spend
        )
        self.trace = Trace(fence, self.activations.current_layer)
        self.backwards = Backwards(
            self.layers, self.meter, self.trace, self.now, declare, self.ledger.event, self.ledger.count_event
        )
        self.activations.on_root = self._on_root
        self.activations.on_non_finite = self.backwards.layer_not_finite
        self.optimizers = Optimizers(self.layers, declare, self._hyper_row, self._follow_soon)
        self.weights = Weights(self.layers, self.meter, self.emit, self.device, declare)
        self.device.on_non_finite = self.backwards.late_not_finite
        self.weights.on_non_finite = self.backwards.gradient_not_finite
        self.clearing = Clearing(self.now, self.patterns, self.ledger.count_event)
        self.clipping = Clipping(self.now, declare, self.writer.row)
        self.losses = Losses(self.meter, self.emit, declare, self.activations.answers)
        self.evaluations = Evaluations(self.layers, declare, fence.guard, self.activations.samples, self.meter)
        self.watching = True
        self.trained = False  # a backward call was seen, or is not needed: this process is worth a record
        self.ended = False
        self.compiled = False
        self._was_watching = False
        self._following = True
        self._follow_from = FOLLOWED + FOLLOWED_REST
        self._closures = False  # an optimizer calls backward within its step: the events there have their own order
        self.on_plain: Callable[[bool], None] = lambda plain: None
        self._timed = 0.0
        self._manual: Held | None = None
        self._evaluating = False  # the last mode set was eval
        self._mode_said: tuple[Any, ...] | None = None
        self._since = (0, 0.0, 0.0)  # step, wall and CPU time of the last slow tick
        self.activations.begin()

    # Backward ---------------------------------------------------------------------------------------------------------

    def before_backward(self, tensors: Any, frame: FrameType, retained: bool = False) -> None:
        """A backward call of the training's own begins (not one inside another, or of a thread).

        Args:
            tensors: what it was given, the loss as a rule.
            frame: what called `torch.autograd.backward`.
            retained: the graph shall be kept.
        """
        now = self.now
        at = perf_counter() - self.started
        cpu = thread_time()
        if now.attentive or not self.optimizers.made:
            self._prepare_backward()
        loss = tensors if isinstance(tensors, torch.Tensor) else _first(tensors)
        if now.in_step:
            self._closures = True
        backwards = self.backwards
        site = backwards.site(frame, retained)
        row = (_B, now.in_step, site, now.step, at)
        value = backwards.value(loss, row)
        if value is not None:
            self.writer.row(*row[:4], value, at)
            if value - value != 0.0 and not backwards.said:
                backwards.loss_not_finite(loss, site, value)
        if now.attentive:
            if self.watching and not self.compiled and backwards.wants_graph(site):
                backwards.take_graph(loss, site, now.step)
            if isinstance(loss, torch.Tensor) and loss.grad_fn is None and loss.requires_grad:
                backwards.without_history(loss, site)
            self._timed += thread_time() - cpu

    def _prepare_backward(self) -> None:
        if self.now.owner is None:
            self._begin()
        self.trace.stop()
        if self.evaluations.open:
            self.evaluations.end()
        if self._manual_step_over():
            self._manual_tick()
        self.clearing.forget()
        if self.ledger.waiting:
            self.ledger.write(self.now.step, keep=self.backwards.said)
        if self._following:
            for watch in self.optimizers.watches():
                watch.before_backward()

    def keep_record(self) -> None:
        """This process is worth a record, though it may call no backward."""
        if self.now.owner is None:
            self._begin()

    def _begin(self) -> None:
        """The first backward call: this process trains, and this is its training thread."""
        self.now.owner = self.activations.owner = get_ident()
        self.trained = True
        now = perf_counter()
        self.governor.begin(now)
        self._since = (0, now, thread_time())
        self.writer.declare(process.describe(self.meter.native))

    def after_backward(self) -> None:
        """The backward call ended."""
        self.now.end_backward()
        if self.now.attentive:
            if self._following:
                for watch in self.optimizers.watches():
                    watch.after_backward()
            self.trace.clear()
            if not self.optimizers.made and not self.now.in_step and self.watching:
                self._manual_before()

    def backward_failed(self, noted: tuple[int, float] | None) -> None:
        """The backward call raised; `noted` is the site and loss of one that the observer was not told of."""
        self.trace.clear()
        if noted is not None:
            self.writer.row(_B, 0, noted[0], self.now.step, noted[1], perf_counter() - self.started)

    # The optimizer's step ---------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any) -> None:
        """An optimizer is about to step."""
        now = self.now
        if now.owner is not None and now.owner != get_ident():
            return
        held = self.optimizers.held(optimizer)
        now.in_step = 1 if held is now.stepping else now.in_step + 1  # its last step raised, if it never ended
        now.stepping = held
        self.optimizers.follow(held, optimizer)
        if now.attentive:
            self._prepare_step(held, optimizer)

    def _prepare_step(self, held: Held, optimizer: Any) -> None:
        begin = thread_time()
        self.trace.stop()
        if self._following and held.watches:
            held.followed += 1
            for watch in held.watches:
                if watch.at_step():
                    known = self.layers.parameter(watch.parameter)
                    self.ledger.count_event(
                        "stale-gradient", f"stale {held.id}", optimizer=held.id, parameter=known and known[0],
                        confirmed=watch.checks > watch.zeros, followed=held.followed,
                    )  # fmt: skip
                    break
        if self._watched_update():
            self.optimizers.refresh(held, optimizer)
            self.weights.before(held, self._update_step())
        self.clearing.before_step(held)
        self._timed += thread_time() - begin

    def after_step(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        now = self.now
        if now.owner is not None and now.owner != get_ident():
            return
        held = now.stepping
        if held is None:  # another one stepped within this one's closure, or a plain step ends
            held = self.optimizers.held(optimizer)
            self.optimizers.follow(held, optimizer)
        held.steps += 1
        now.held = held
        now.stepping = None
        if now.in_step:
            now.in_step -= 1
        if now.attentive:
            begin = thread_time()
            if self._watched_update():
                self.weights.after()
            if self._following:
                if not held.watches:
                    self.optimizers.refresh(held, optimizer)
                    self.optimizers.choose_watches(held)
                for watch in held.watches:
                    watch.after_step()
            self._timed += thread_time() - begin
        if held.code < 0:
            held.code = self.patterns.code(f"step:{held.id}")
        now.pattern.append(held.code)
        if now.backward_seen and not now.in_step:
            self._tick(held.row_id)

    def _watched_update(self) -> bool:
        return self.watching if self.now.backward_seen else self._was_watching

    def _update_step(self) -> int:
        """The step that an optimizer's step belongs to: a second optimizer steps after the tick of the first."""
        return self.now.step if self.now.backward_seen else max(self.now.step - 1, 0)

    def zero_grad(self, holder: Any) -> None:
        """`zero_grad` of an optimizer or a module was called."""
        if self.now.owner is not None and self.now.owner != get_ident():
            return
        if self.now.in_step:
            return
        held = self.optimizers.held(holder) if isinstance(holder, torch.optim.Optimizer) else None
        if held is not None and held.zero_code < 0:
            held.zero_code = self.patterns.code(f"zero_grad:{held.id}")
        self.now.pattern.append(self.patterns.code("zero_grad:module") if held is None else held.zero_code)
        if self.now.attentive:
            self.clearing.called(held, cached_place(3))

    # Loops without an optimizer ---------------------------------------------------------------------------------------

    def _manual_before(self) -> None:
        """After backward, in a loop that changes its parameters by hand: measure them as before a step."""
        begin = thread_time()
        if self._manual is None:
            self._manual = Held(self, MANUAL, None)
        known = [
            (p, name)
            for reference, name, _ in list(self.layers.parameter_names.values())
            if (p := reference()) is not None
        ]
        self._manual.parameters = [p for p, _ in known]
        self._manual.names = [name for _, name in known]
        self.weights.before(self._manual, self.now.step)
        self._timed += thread_time() - begin

    def _manual_step_over(self) -> bool:
        """Whether a step that no optimizer ends has had its backward call."""
        return not self.optimizers.made and self.now.backward_seen and not self.now.in_step

    def _manual_tick(self) -> None:
        """Before the next forward, or else backward: the parameters were changed by now."""
        if self.watching:
            self.weights.after()
        if self._manual is not None:
            self._manual.parameters = []  # not to keep them alive
        self._tick(MANUAL)

    # Steps ------------------------------------------------------------------------------------------------------------

    def _tick(self, optimizer: int) -> None:
        """The step ends."""
        at, now = perf_counter(), self.now
        step = now.step
        now.end_step(optimizer, at - self.started)
        now.left -= 1
        if now.left <= 0 or at >= now.next_flush or now.attentive:
            self._slow_tick(step, at)

    def _slow_tick(self, step: int, at: float) -> None:
        """All that need not be done at every step: account, declare, choose what to watch next, write."""
        watched = self.watching
        since, since_at, since_cpu = self._since
        cpu = thread_time()
        if watched:
            self.governor.end_watched(step, at - since_at, cpu - since_cpu, self._timed)
        else:
            self.governor.end_plain(step + 1 - since, at - since_at, self._timed)
        self._since = (step + 1, at, cpu)
        self._timed = 0.0
        self.clearing.step_ended()
        if watched:
            self._say_modes(step)
        if self.device.busy:
            self.device.collect()
            self.device.end_step()
        self.clipping.send()
        if step + 1 in DECLARE_AT or (watched and self.activations.dirty):
            self._declare_all()
        self._write_late()
        self._was_watching = watched
        self._watch(self.governor.wants(step + 1, at))
        next_step = step + 1
        if next_step == self._follow_from:
            for watch in self.optimizers.watches():
                watch.after_step()
        elif next_step >= self._follow_from + FOLLOWED_RUN:
            self._follow_from = next_step + max(FOLLOWED_REST, int(next_step * FOLLOWED_SHARE))
        self._following = next_step < FOLLOWED or next_step >= self._follow_from
        self._attend(self.watching or watched or self._following or self.ledger.waiting)
        due = (self.governor.next - next_step, STEPS_AT_RISK, self._follow_from - next_step)
        self.now.left = 1 if self.now.attentive else max(1, min(due))
        self.now.next_flush = at + FLUSH_SECONDS
        self.writer.tick(next_step, at)
        if self.writer.broken is not None and self.ledger.first("told of the writer"):
            say(f"{self.writer.broken}; training goes on")
        if step & next_step == 0:
            self.say_cost()

    def _attend(self, attentive: bool) -> None:
        """The events of the coming step are to be looked at, or may pass with a row each."""
        self.now.attentive = attentive
        if not attentive:
            self.clearing.forget()
        plain = not attentive and self.optimizers.made and not self._closures and not self.fence.off
        if plain is not self.now.plain:
            self.now.plain = plain
            self.on_plain(plain)

    def _follow_soon(self) -> None:
        """An optimizer is new: look at its first steps."""
        if self.now.step >= FOLLOWED and not self._following:
            self._follow_from = self.now.step + 1
            self._attend(True)

    def _watch(self, watch: bool) -> None:
        """Make the coming step a watched one, or not."""
        if watch:
            self.meter.seed += 1
            self.meter.cap = self.governor.cap
            self.losses.begin()
            if not self.compiled:
                self.activations.begin()
        elif self.watching:
            self.activations.end()
        self.watching = watch

    def _on_root(self, module: Any, layer: Layer) -> None:
        """A model's forward begins on a watched step: in the first ones torch's calls are logged."""
        if self._manual_step_over() and torch.is_grad_enabled() and not self.now.in_backward:
            self._manual_tick()
        early = self.now.step < TRACED_STEPS or self.backwards.wants_trace()
        if (
            early
            and not self.compiled
            and not self.now.in_backward
            and not self.now.in_step
            and torch.is_grad_enabled()
        ):
            self.trace.start()

    def _say_modes(self, step: int) -> None:
        modes = self.activations.modes
        said = (tuple(sorted(n for n, t in modes.items() if t)), tuple(sorted(n for n, t in modes.items() if not t)))
        if modes and said != self._mode_said:
            self._mode_said = said
            self.ledger.event("forward-mode", step=step, training_layers=list(said[0]), eval_layers=list(said[1]))

    # Losses, modes, other objects -------------------------------------------------------------------------------------

    def loss_called(self, function: str, args: Any, kwargs: Any, result: Any) -> None:
        """A loss function returned."""
        if self.now.in_backward or not isinstance(result, torch.Tensor) or not is_real(result):
            return
        if self.now.owner is not None and self.now.owner != get_ident():
            return
        training = result.requires_grad
        if not (self.watching if training else self.trained):
            return
        begin = thread_time()
        if training and self._manual_step_over():
            self._manual_tick()
        number = self.losses.number(function, 3, args, kwargs, training)
        scalar = result.numel() == 1 and result.is_cpu
        value = float(result.detach()) if scalar else math.nan
        now = perf_counter() - self.started
        if training:
            self.writer.row(_L, 0, number, self.now.step, value, now)
            self.losses.measure(number, function, args, kwargs)
            self._timed += thread_time() - begin
        elif scalar:
            self.writer.row(_E, not self._evaluating, number, self.now.step, value, now)
        elif result.numel() == 1:
            self.backwards.later((_E, not self._evaluating, number, self.now.step, now), result)

    def pause(self, deliberate: bool = False) -> None:
        """Gradient was switched off, or (deliberate) a model put in eval mode: perhaps an evaluation begins."""
        if self.now.in_backward or self.now.in_step or (self.now.owner is not None and self.now.owner != get_ident()):
            return
        self.trace.stop()
        if self.trained and not self.now.backward_seen and not self.compiled and not self.evaluations.open:
            self.evaluations.begin(self.now.step, deliberate)
            self._attend(True)

    def mode_set(self, module: Any, training: bool) -> None:
        """`train()` or `eval()` was called on a module by the user."""
        self._evaluating = not training
        if not training:
            self.pause(deliberate=True)
        self._look_again()
        if self.ledger.first("mode", times=200):
            root = self.layers.name_of(module)
            self.ledger.event("mode", root=root, training=training, location=location(cached_place(4)))

    def _look_again(self) -> None:
        """After an evaluation: see soon in which mode training goes on."""
        if self.trained and self.ledger.first("looked again", times=5):
            self.governor.next = self.now.step + 1
            self.now.left = 1

    def steps_of(self, optimizer: Any) -> int:
        """How many steps of an optimizer were seen."""
        self.now.settle()
        return self.optimizers.held(optimizer).steps

    def skipped_step(self, scale: float) -> None:
        """GradScaler left the optimizer's step out."""
        self.ledger.count_event("scaler", "scaler", scale=scale)

    def epoch(self, loader: int) -> None:
        """A loader is iterated anew."""
        if not self.now.in_backward:
            self.ledger.count_event("epoch", f"epoch {loader}", loader=loader)

    def compile_called(self) -> None:
        """torch.compile is used: leave modules alone from here on."""
        if not self.compiled:
            self.compiled = True
            self.trace.stop()
            self.activations.end()
            self.evaluations.end()
            self.activations.forbidden = self.evaluations.forbidden = True
            self.writer.declare(
                {
                    "type": "unseen", "what": "activations",
                    "why": "torch.compile is used: the insides of compiled models are not looked at; loss, parameters, "
                    "gradients and updates are",
                }
            )  # fmt: skip

    # Plumbing ---------------------------------------------------------------------------------------------------------

    def emit(self, what: str, subject: str, row: Row) -> None:
        """Take one row of a series for the current step."""
        step = self._update_step() if what in ("parameter", "gradient", "update") else self.now.step
        self.ledger.row(step, what, subject, row)

    def _spend(self, seconds: float) -> None:
        self._timed += seconds

    def _hyper_row(self, optimizer: int, number: int, value: float) -> None:
        self.writer.row(_H, optimizer, number, self.now.step, value, 0.0)

    def _write_late(self, wait: bool = False) -> None:
        for (kind, a, b, step, at), value in self.backwards.arrived(wait):
            self.writer.row(kind, a, b, step, value, at)
        self.clipping.collect(wait)

    def _declare_all(self) -> None:
        self.activations.dirty = False
        begin = thread_time()
        if not self.layers.roots():
            self.layers.find_roots(user_frame(sys._getframe(1)))
        self.optimizers.declare_all()
        for module, layer in self.layers.all():
            self.writer.declare(self.layers.declaration(module, layer))
        self.weights.declare_parameters(self.optimizers)
        for declaration in self.activations.samples.declarations():
            self.writer.declare(declaration)
        self.governor.start_up += thread_time() - begin

    def say_cost(self) -> None:
        """The governor's account, as it stands."""
        self.writer.declare(
            {
                "type": "cost", "watched": self.governor.watched, "steps": self.now.step,
                "seconds": self.governor.elapsed(perf_counter()),
                "probe_seconds": self.governor.spent + self.governor.start_up,
                "period": self.governor.period, "cap": self.meter.cap,
            }
        )  # fmt: skip

    def adopt(self, before: Observer) -> None:
        """Take over, after a fork, what the parent process knew of the user's objects."""
        self.layers = before.layers
        for part in (self.activations, self.backwards, self.optimizers, self.weights, self.evaluations):
            part.layers = before.layers
        self.optimizers.inherit(before.optimizers)
        if before.compiled:
            self.compile_called()

    def flush(self) -> None:
        """Write what is known by now."""
        if self.trained and not self.ended:
            self._declare_all()
            self.ledger.write(self.now.step)
            self.say_cost()
            self.writer.flush()

    def look_at_death(self, message: str, trace: TracebackType | None) -> None:
        """The program ends by an exception: it may be for numbers that are not finite."""
        for held, _ in self.optimizers.all():
            self.backwards.look_at_weights(held)
        if speaks_of_nan(message):
            self.backwards.look_at_death(tensors_in(trace))

    def end(self) -> None:
        """The process ends: write what is left."""
        if self.ended or not self.trained:
            return
        if not self.optimizers.made and self.now.backward_seen:
            self._manual_tick()
        self.ended = True
        self._declare_all()
        self.device.end_step()
        self.device.collect(wait=True)
        self.now.settle()
        self.clipping.send()
        self.ledger.write(self.now.step + 1, keep=self.backwards.said)
        self._write_late(wait=True)
        self.say_cost()
        self.writer.close()


def _first(tensors: Any) -> Any:
    return next(iter(tensors), None) if isinstance(tensors, (tuple, list)) else None
