"""The user's program as overrides see it: which act at a point, what they changed, what if one fails."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.overrides.calls import ForwardCall
from wellfit.overrides.catalogue import as_text, values_of
from wellfit.overrides.draws import own_seed
from wellfit.overrides.following import follow_parameters
from wellfit.overrides.override import POINTS, Override, points_of
from wellfit.overrides.places import here_text
from wellfit.probe.attach import Attachment
from wellfit.probe.fence import say
from wellfit.probe.patching import Patches


class Program:
    """One process's program under overrides.

    Args:
        overrides: in the order in which they act.
        attachment: the probe of this process, which records what was changed.

    Attributes:
        steps: optimizer steps that began, by optimizer; those left out do not count. One that is made again (by a line
            whose last one has made steps) goes on with the count of the one before.
        optimizers: those that were made and are still there.
        rates: the learning rates of the groups of an optimizer when it was made.
        closure: whether the step that is asked for was given a closure.
    """

    def __init__(self, overrides: list[Override], attachment: Attachment) -> None:
        self.overrides = overrides
        self.patches = Patches()
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.rates: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self.closure = False
        self.patched: set[type] = set()  # classes of optimizers whose constructor is ours
        self._attachment = attachment
        self._places: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._lines: dict[str, int] = {}  # steps by the name of the optimizer
        self._first_asked: weakref.WeakSet[Any] = weakref.WeakSet()  # optimizers that have made their first step
        self._made: list[weakref.ref[Any]] = []
        self._roots: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._stopped: list[Override] = []  # those that failed
        self._begun = False  # a step of an optimizer began: from here on nothing stops the run
        self._unseen = 0  # how many `unseen` are open
        self._stream: torch.Tensor | None = None  # the state of our random numbers, once there were some
        self._process = os.getpid()
        self._at: dict[str, list[Override]] = {
            point: [override for override in overrides if point in points_of(override)] for point in POINTS
        }

    # For overrides --------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Steps of the optimizer that has made most of them; 0 before the first has begun."""
        return max(self._lines.values(), default=0)

    @property
    def optimizers(self) -> list[Any]:
        """See the class."""
        return [made for reference in self._made if (made := reference()) is not None]

    def name(self, optimizer: Any) -> str:
        """ "SGD at train.py:12", for `Override.changed`."""
        return type(optimizer).__name__ + self._places.get(optimizer, "")

    def parameter_names(self, parameters: Sequence[Any]) -> list[str]:
        """As the record names them; a tensor that belongs to no known module is called by its shape."""
        layers = self._attachment.observer.layers

        def look() -> list[tuple[str, str] | None]:
            if not all(layers.knows_parameter(parameter) for parameter in parameters):
                layers.rename_parameters()
            return [layers.parameter(parameter) for parameter in parameters]

        known = self._attachment.fence.guard(look)() or [None] * len(parameters)
        pairs = zip(parameters, known, strict=True)
        return [name[0] if name else f"a tensor of shape {list(parameter.shape)}" for parameter, name in pairs]

    def patch(self, holder: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the place of `holder.name`: for what there is no point for."""
        self.patches.patch(holder, name, make)

    @contextlib.contextmanager
    def randomness(self) -> Iterator[None]:
        """Random numbers from a stream of our own, which hangs on the script's seed alone (`draws.own_seed`) and goes
        on from entry to entry; the script's own stream stays where it was."""
        before, outer = torch.get_rng_state(), self._stream
        if outer is None:
            # Not torch.manual_seed: another override may have changed what that does.
            torch.default_generator.manual_seed(own_seed(torch.initial_seed()))
        else:
            torch.set_rng_state(outer)
        try:
            yield
        finally:
            self._stream = torch.get_rng_state()
            torch.set_rng_state(before)

    @contextlib.contextmanager
    def unseen(self) -> Iterator[None]:
        """What runs in here is ours, not the script's: the probe does not look, and no override acts."""
        fence, trace = self._attachment.fence, self._attachment.observer.trace
        off, fence.off = fence.off, True
        traced = trace.pause()
        self._unseen += 1
        try:
            yield
        finally:
            self._unseen -= 1
            fence.off = off
            if traced:
                trace.start()

    # For the patches (`points`) -------------------------------------------------------------------------------------

    def wants(self, *points: str) -> bool:
        """Whether an override acts at one of these points."""
        return any(self._at[point] for point in points)

    def call(self, point: str, *args: Any) -> None:
        """Let the overrides act at a point."""
        for override in list(self._acting(point)):
            self._ask(override, point, *args)

    def asked(self, point: str, *args: Any) -> bool:
        """Whether an override answers True at a point; the rest is not asked then."""
        return any(self._ask(override, point, *args) for override in list(self._acting(point)))

    def first_answer(self, point: str, *args: Any) -> Any:
        """The first answer that is not None; None if there is none."""
        answers = (self._ask(override, point, *args) for override in list(self._acting(point)))
        return next((answer for answer in answers if answer is not None), None)

    def through(self, point: str, args: tuple[Any, ...], value: Any) -> Any:
        """A value handed from one override to the next; an override that fails hands on what it got."""
        for override in list(self._at[point]):
            given = _Given(value)
            answer = self._ask(override, point, *args, given)
            if answer is not None and answer is not given:
                value = self._fenced(override, point, given, answer)
        return value

    def _fenced(self, override: Override, point: str, given: _Given, answer: Iterator[Any]) -> Iterator[Any]:
        """What an override makes of what it was given; where it fails, the rest as it is."""
        while True:
            try:
                item = next(answer)
            except StopIteration:
                return
            except Exception as error:
                if error is given.error:  # the script's
                    raise
                self._failed(override, point, error)
                break
            given.taken.clear()
            yield item
        yield from given.taken
        yield from given

    def tell_probe(self, optimizer: Any) -> None:
        """An optimizer was made out of the probe's sight that takes part after all."""
        self._attachment.fence.guard(self._attachment.observer.optimizers.born)(optimizer)

    def made_optimizer(self, optimizer: Any) -> None:
        """An optimizer's constructor has run."""
        self._made = [reference for reference in self._made if reference() is not None]
        self._made.append(weakref.ref(optimizer))
        self.rates[optimizer] = [group.get("lr") for group in optimizer.param_groups]
        self._places[optimizer] = here_text()
        self.steps[optimizer] = self._lines.get(self.name(optimizer), 0)
        self.call("made_optimizer", optimizer)

    def forward(self, root: nn.Module, call: ForwardCall) -> None:
        """A module that no other module calls is about to be called."""
        if root not in self._roots:
            self._roots.add(root)
            for override in list(self._acting("model")):
                before = list(root.named_parameters())
                with torch.inference_mode(False):  # what is made here is to be trained
                    self._ask(override, "model", root, call)
                try:
                    follow_parameters(root, before, self.optimizers)
                except Exception as error:
                    self._failed(override, "model", error)
                if override.changes:
                    self._attachment.fence.guard(self._attachment.observer.optimizers.look_again)()
        self.call("before_forward", root, call)

    def begin_step(self, optimizer: Any) -> None:
        """A step of an optimizer is about to be made: the last moment to stop the run."""
        if optimizer not in self._first_asked:
            self._first_asked.add(optimizer)
            self.call("first_step", optimizer)
        if not self._begun:
            self._ask_of_others(optimizer)
        self._begin()
        self.steps[optimizer] = self.steps.get(optimizer, 0) + 1
        name = self.name(optimizer)
        self._lines[name] = max(self._lines.get(name, 0), self.steps[optimizer])

    def under_way(self) -> list[Override]:
        """Those that are to be told of the end of a step that begins now, whether they fail in it or not."""
        return list(self._acting("after_step"))

    def end_step(self, told: list[Override], optimizer: Any) -> None:
        """A step has ended.

        Args:
            told: what `under_way` gave.
        """
        for override in told:
            self._ask(override, "after_step", optimizer)

    def backward(self, loss: Any) -> None:
        """A backward pass is about to begin. Where there is no optimizer yet, weights are changed by hand after it."""
        if not self._begun and not self._made:
            self._begin()
        self.call("before_backward", loss)

    def ended(self) -> None:
        """The program ends."""
        if os.getpid() != self._process:
            return
        self.call("end")
        self._declare()

    # ----------------------------------------------------------------------------------------------------------------

    def _ask_of_others(self, optimizer: Any) -> None:
        """What does not fit the optimizer that steps first may fit another one, whose first step is yet to come."""
        for override in list(self._acting("first_step")):
            for other in self.optimizers:
                if other is not optimizer and not override.changes:
                    self._ask(override, "first_step", other)

    def _begin(self) -> None:
        """Weights are about to be changed for the first time: every override must have found something by now."""
        if not self._begun:
            for override in self.overrides:
                if not override.changes:
                    reasons = "; ".join(f"{what}: {why}" for what, why in override.omissions[:3])
                    self._stop(
                        override, f"found nothing to change: {override.misfit}" + f" ({reasons})" * bool(reasons)
                    )
            self._begun = True
            self._declare()

    def _acting(self, point: str) -> list[Override]:
        return self._at[point] if not self._unseen else []

    def _ask(self, override: Override, point: str, *args: Any) -> Any:
        try:
            return getattr(override, point)(self, *args)
        except Exception as error:
            self._failed(override, point, error)
        return None

    def _failed(self, override: Override, point: str, error: Exception) -> None:
        if isinstance(error, WellfitError):
            self._stop(override, f"cannot be applied: {error}")
        else:
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._stop(override, f"failed at {point} ({said})")

    def _stop(self, override: Override, why: str) -> None:
        """End the run before its first step; later, go on without this override."""
        if override in self._stopped:
            return  # it puts back what it changed for this step, or an epoch that it began goes on
        self._stopped.append(override)
        sentence = f"--override {as_text(override)} {why}"
        if self._begun or os.getpid() != self._process:
            for acting in self._at.values():
                acting[:] = [other for other in acting if other is not override]
            override.left_out(f"from step {self.step} on", why)
            say(f"{sentence}; the script goes on without it")
            return
        self._note(sentence)
        say(f"{sentence}; nothing was trained")
        raise SystemExit(2)

    def _note(self, sentence: str) -> None:
        """Leave a line for the parent, which must know why there was no training."""
        with (
            contextlib.suppress(OSError),
            open(os.path.join(str(self._attachment.options["run"]), "torch.txt"), "a", encoding="utf-8") as file,
        ):
            file.write(f"stopped {sentence}\n")

    def _declare(self) -> None:
        for number, override in enumerate(self.overrides):
            entry = {
                "type": "override", "id": number, "name": override.name, "text": as_text(override),
                "parameters": values_of(override),
                "safe": override.safe, "changed": override.changes,
                "left_out": [list(pair) for pair in override.omissions],
            }  # fmt: skip
            self._attachment.fence.guard(self._attachment.observer.writer.declare)(entry)


class _Given(Iterator[Any]):
    """An iterator as an override is given it.

    Attributes:
        taken: what the override took of it and has not handed on.
        error: that with which it failed by itself.
    """

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self.taken: list[Any] = []
        self.error: BaseException | None = None

    def __next__(self) -> Any:
        try:
            item = next(self._items)
        except BaseException as error:
            self.error = error
            raise
        self.taken.append(item)
        return item
