"""The user's program as overrides see it: which act at a point, what they changed, what if one fails."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
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
from wellfit.overrides.iterators import Changed, Given
from wellfit.overrides.override import POINTS, CannotGoOn, Override, points_of
from wellfit.overrides.places import here_text
from wellfit.overrides.words import in_short
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
        peaks: those at the top of the cycles of an optimizer that has a CyclicLR.
        closure: whether the step that is asked for was given a closure.
    """

    def __init__(self, overrides: list[Override], attachment: Attachment) -> None:
        self.overrides = overrides
        self.patches = Patches()
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.rates: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self.peaks: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self.closure = False
        self.patched: set[type] = set()  # classes of optimizers whose constructor is ours
        self._attachment = attachment
        self._places: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._lines: dict[str, int] = {}  # steps by the name of the optimizer
        self._first_asked: weakref.WeakSet[Any] = weakref.WeakSet()  # optimizers that have made their first step
        # What fitted nothing before a closure was called, by the optimizer that it was given to.
        self._unfit: weakref.WeakKeyDictionary[Any, list[Override]] = weakref.WeakKeyDictionary()
        self._made: list[weakref.ref[Any]] = []
        self._roots: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._stopped: list[Override] = []  # those that failed
        self._begun = False  # a step of an optimizer began: from here on nothing but `CannotGoOn` stops the run
        self._refused = False  # the run was stopped: no step is made, whatever the script does about it
        self._trains = False  # an optimizer was made
        self._unseen = 0  # how many `unseen` are open
        self._nodes = _nodes_made()
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
        return type(optimizer).__name__ + self.place(optimizer)

    def place(self, made: Any) -> str:
        """ " at train.py:12": where an optimizer or a loader was made; empty if that is not known."""
        return self._places.get(made, "")

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

    def patch(self, holder: Any, name: str, make: Callable[[Any], Any]) -> Any:
        """Put `make(original)` in the place of `holder.name`, and give it back: for what there is no point for."""
        return self.patches.patch(holder, name, make)

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

    def stopped(self, override: Override) -> None:
        """An override ends the program now: for the rules, which must not blame the script for it."""
        self._attachment.fence.guard(self._attachment.observer.ledger.event)("stopped", by=override.name)

    def keep_record(self) -> None:
        """Have a record written though nothing is trained."""
        self._attachment.fence.guard(self._attachment.observer.keep_record)()

    def note(self, name: str, **fields: Any) -> None:
        """Write an event into the record: what an override saw that only looks."""
        self._attachment.fence.guard(self._attachment.observer.ledger.event)(name, **fields)

    def layer_name(self, module: nn.Module) -> str:
        """As the record names it, or the name of its class."""
        return self._attachment.fence.guard(self._attachment.observer.layers.name_of)(module) or type(module).__name__

    @property
    def folder(self) -> str:
        """The run's folder."""
        return str(self._attachment.options["run"])

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
            given = Given(value)
            answer = self._ask(override, point, *args, given)
            if answer is not None and answer is not given:
                value = Changed(given, answer, functools.partial(self._failed, override, point))
        return value

    def fenced(self, override: Override, point: str, function: Callable[..., None]) -> Callable[..., None]:
        """A hook of an override's own, for torch to call: where it fails, the override does."""

        def hook(*args: Any) -> None:
            try:
                function(*args)
            except Exception as error:
                self._failed(override, point, error)

        return hook

    def tell_probe(self, optimizer: Any) -> None:
        """An optimizer was made out of the probe's sight that takes part after all."""
        self._attachment.fence.guard(self._attachment.observer.optimizers.born)(optimizer)

    def made_optimizer(self, optimizer: Any) -> None:
        """An optimizer's constructor has run."""
        self._know(optimizer, here_text(), [_kept(group.get("lr")) for group in optimizer.param_groups])
        self.steps[optimizer] = self._lines.get(self.name(optimizer), 0)
        self.call("made_optimizer", optimizer)

    def copied_optimizer(self, optimizer: Any, copy: Any) -> None:
        """An optimizer was copied: what is known of it holds for the copy too."""
        self._know(copy, self.place(optimizer), [_kept(rate) for rate in self.rates[optimizer]])
        self.steps[copy] = self.steps[optimizer]
        if optimizer in self.peaks:
            self.peaks[copy] = self.peaks[optimizer]
        self.call("copied_optimizer", optimizer, copy)

    def _know(self, optimizer: Any, place: str, rates: list[Any]) -> None:
        self._made = [reference for reference in self._made if reference() is not None]
        self._made.append(weakref.ref(optimizer))
        self._trains = True
        self.rates[optimizer] = rates
        self._places[optimizer] = place

    def made_cycle(self, optimizer: Any, peaks: list[Any]) -> None:
        """A scheduler was made that cycles the rates of an optimizer."""
        self.peaks[optimizer] = [_kept(peak) for peak in peaks]

    def made_loader(self, loader: Any) -> None:
        """A DataLoader's constructor has run."""
        self._places[loader] = here_text()

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

    def insist(self) -> None:
        """A script that caught the end of its run (a bare `except:`) is ended again at its next step."""
        if self._refused:
            raise SystemExit(2)

    def begin_step(self, optimizer: Any) -> None:
        """A step of an optimizer is about to be made: the last moment to stop the run. Where it is given a closure,
        that is when this has returned (`closure_returned`): it may be what calls the model for the first time."""
        if optimizer not in self._first_asked:
            self._first_asked.add(optimizer)
            self._ask_first(optimizer)
        if not self.closure:
            self._decide(optimizer)
        self.steps[optimizer] = self.steps.get(optimizer, 0) + 1
        name = self.name(optimizer)
        self._lines[name] = max(self._lines.get(name, 0), self.steps[optimizer])

    def closure_returned(self, optimizer: Any) -> None:
        """The closure of a step was called for the first time in it: no weight has been moved."""
        for override in self._unfit.pop(optimizer, ()):
            if override in self._acting("first_step"):
                self._ask(override, "first_step", optimizer)
        self._decide(optimizer)

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
        if not (self._begun or self._refused) and (self._trains or _nodes_made() > self._nodes):
            self._say_unused()
        self._declare()

    # ----------------------------------------------------------------------------------------------------------------

    def _ask_first(self, optimizer: Any) -> None:
        for override in list(self._acting("first_step")):
            changes, omissions = len(override.changes), len(override.omissions)
            self._ask(override, "first_step", optimizer)
            if self.closure and len(override.changes) == changes and len(override.omissions) > omissions:
                del override.omissions[omissions:]
                self._unfit.setdefault(optimizer, []).append(override)

    def _decide(self, optimizer: Any) -> None:
        if not self._begun:
            self._ask_of_others(optimizer)
            self._begin()

    def _ask_of_others(self, optimizer: Any) -> None:
        """What does not fit the optimizer that steps first may fit another one, whose first step is yet to come."""
        for override in list(self._acting("first_step")):
            for other in self.optimizers:
                if other is not optimizer and not (override.changes or override.is_met):
                    self._ask(override, "first_step", other)

    def _begin(self) -> None:
        """Weights are about to be changed for the first time: every override must have found something by now."""
        self.insist()
        if not self._begun:
            for override in self.overrides:
                if not (override.changes or override.is_met):
                    self._stop(override, _found_nothing(override, " by the first step"))
            self._begun = True
            self._declare()

    def _say_unused(self) -> None:
        """Gradients were taken, or an optimizer was made, but no moment came to refuse an override that fits nothing:
        weights were changed in a way that is not seen, or not at all."""
        crashed = getattr(sys, "last_value", None) is not None
        for override in self.overrides:
            if not (override.changes or override.is_met or override in self._stopped):
                why = _found_nothing(override)
                override.left_out("the whole run", why)
                if not crashed:
                    say(f"--override {as_text(override)} {why}; the script ran without it")

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
            self._stop(override, f"cannot be applied: {error}", final=isinstance(error, CannotGoOn))
        else:
            self._stop(override, f"failed at {point} ({in_short(error, 300)})")

    def _stop(self, override: Override, why: str, final: bool = False) -> None:
        """End the run before its first step; later, go on without this override unless that cannot be (`final`)."""
        if override in self._stopped and not final:
            return  # it puts back what it changed for this step, or an epoch that it began goes on
        self._stopped.append(override)
        sentence = f"--override {as_text(override)} {why}"
        if not final and (self._begun or os.getpid() != self._process):
            for point, acting in self._at.items():
                if point not in override.lasting:
                    acting[:] = [other for other in acting if other is not override]
            override.left_out(f"from step {self.step} on", why)
            say(f"{sentence}; the script goes on without it")
            return
        self._refused = True
        if self._begun:
            override.left_out(f"from step {self.step} on", why)
            say(f"{sentence}; the script cannot go on, and was stopped at step {self.step}")
        else:
            override.left_out("the whole run", why)
            self._note(sentence)
            say(f"{sentence}; nothing was trained")
        raise SystemExit(2)

    def _note(self, sentence: str) -> None:
        """Leave a line for the parent, which must know why there was no training."""
        with (
            contextlib.suppress(OSError),
            open(os.path.join(self.folder, "torch.txt"), "a", encoding="utf-8") as file,
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


def _found_nothing(override: Override, until: str = "") -> str:
    reasons = "; ".join(f"{what}: {why}" for what, why in override.omissions[:3])
    return f"found nothing to change{until}: {override.misfit}" + f" ({reasons})" * bool(reasons)


def _kept(rate: Any) -> Any:
    """A rate as it is now: one that is a tensor is changed in place."""
    return rate.detach().clone() if isinstance(rate, torch.Tensor) else rate


def _nodes_made() -> int:
    """How many operations of this thread autograd has noted."""
    count = getattr(torch._C._autograd, "_get_sequence_nr", None)
    return int(count()) if count is not None else 0
