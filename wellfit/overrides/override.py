"""The anatomy of an override. One file each, found by scanning the folders beside this file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.errors import WellfitError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

GROUPS = ("optimizer", "data", "model", "run", "slim", "faults")


class CannotGoOn(WellfitError):
    """What an override made cannot be trained with: where this is raised at a point, the run ends, late as it may be.

    For where the script would fail with it, and cannot be given back what it had.
    """


@dataclass(kw_only=True, eq=False)
class Override:
    """Base class: subclass it as a dataclass, fill the class fields, write the points where it acts.

    The docstring of an override begins with a line that says what it changes; then the headings *What it changes, When
    it helps, Safety, Where it does not apply, References*. Its parameters are fields made by `parameters.number` and
    its kin; the first one needs no name: `--override lr=0.01`, `--override warmup=100,start:0.1`.

    The points are called inside the user's process, in the order of `rank` where several overrides have the same one.
    Only torch and the standard library may be imported, and torch only inside methods: the parent, which knows no
    torch, reads the classes too. An override says what it changed (`changed`) and what it could not change
    (`left_out`); one that has changed nothing when the first optimizer step begins, though nothing was as
    it asks (`met`), ends the run before it. A
    `WellfitError` raised at a point does the same, with its sentence; later the script goes on without the override
    (but see `CannotGoOn`). Randomness comes from `program.randomness()`, so that the script's own random numbers stay
    as they were.

    Class fields:
        name: kebab-case, as on the command line.
        summary: one line for the table.
        example: a value that may be tried, as on the command line ("lr=0.01").
        safe: keeps what the program means; False if it changes the model, the data or the result.
        rank: lower acts first (and, for gradients, nearer to the backward pass).
        conflicts: names of overrides that contradict this one.
        misfit: what a script must have for it, said where nothing could be changed ("there is no DataLoader").
        looks: changes nothing, but looks at the program as it trains: what it `changed` is then what it saw.
        lasting: points at which it goes on acting where it failed after the first step, since what it made stays.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    example: ClassVar[str]
    safe: ClassVar[bool]
    since: ClassVar[str] = "0.1"
    misfit: ClassVar[str]
    rank: ClassVar[int] = 50
    conflicts: ClassVar[tuple[str, ...]] = ()
    looks: ClassVar[bool] = False
    lasting: ClassVar[tuple[str, ...]] = ()

    changes: list[str] = dataclasses.field(default_factory=list, init=False)
    omissions: list[tuple[str, str]] = dataclasses.field(default_factory=list, init=False)
    is_met: bool = dataclasses.field(default=False, init=False)

    def changed(self, what: str) -> None:
        """Note for the record what was changed ("SGD at train.py:12: lr 0.1 -> 0.01"); the same thing is kept once."""
        if what not in self.changes:
            self.changes.append(what)

    def left_out(self, what: str, why: str) -> None:
        """Note what could not be changed ("head", "it is the last layer"); an override may leave out a part."""
        if (what, why) not in self.omissions:
            self.omissions.append((what, why))

    def met(self, what: str, how: str) -> None:
        """Note what is as it was asked for without us ("1", "it is relu already"): this override fits the script, and
        is not refused if it finds nothing else."""
        self.left_out(what, how)
        self.is_met = True

    # Points ---------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Before anything is started: raise a WellfitError where the parameters contradict each other."""

    def check_beside(self, others: Sequence[Override]) -> None:
        """The same, where they contradict those of another override; `conflicts` is for those that always do."""

    def begin(self, program: Program) -> None:
        """torch has been imported, nothing of the script that needs it has run."""

    def replace_optimizer(self, program: Program, optimizer: Optimizer) -> Optimizer | None:
        """The script made this optimizer, out of the probe's sight: another one to give it instead, made in
        `program.unseen()`, or None."""
        return None

    def made_optimizer(self, program: Program, optimizer: Optimizer) -> None:
        """An optimizer was made: its `param_groups` are there."""

    def copied_optimizer(self, program: Program, optimizer: Optimizer, copy: Optimizer) -> None:
        """An optimizer was copied (`copy.deepcopy`). `first_step` of the copy follows, as of any other."""

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """An optimizer is about to make its first step: its schedulers are there. Nothing may be changed yet.

        Asked earlier, and then once more, where this override fits none of the optimizers that step before. Where the
        step is given a closure the model may not have been called yet; one that left something out and changed nothing
        is asked again when the closure has returned for the first time.
        """

    def loader(self, program: Program, arguments: dict[str, Any]) -> None:
        """A DataLoader is about to be made: change its arguments (all of them by name) in place."""

    def batches(self, program: Program, loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """An epoch of a DataLoader begins: what the script shall iterate over."""
        return batches

    def model(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """A model (a module with parameters, called by no other module) is called for the first time.

        Change it in place. Its parameters may be replaced and new ones added: the optimizers follow.
        """

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """A model is about to be called: `call.args` and `call.kwargs` may be replaced."""

    def after_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """The model's call has ended, perhaps by an exception: `call.result` may be replaced."""

    def loss(self, program: Program, call: LossCall) -> None:
        """A loss function of torch is about to be called: `call.prediction`, `call.target`, `call.function` and
        `call.options` may be replaced."""

    def after_loss(self, program: Program, call: LossCall) -> None:
        """A loss function of torch has given its result: `call.result` may be replaced (a term added to it, say)."""

    def skip_backward(self, program: Program, loss: Any) -> bool:
        """A backward pass is asked for: True leaves it out."""
        return False

    def before_backward(self, program: Program, loss: Any) -> None:
        """A backward pass is about to begin."""

    def skip_zero_grad(self, program: Program, holder: Any) -> bool:
        """An optimizer's or a module's `zero_grad` is called: True leaves the call out."""
        return False

    def skip_step(self, program: Program, optimizer: Optimizer) -> bool:
        """An optimizer's `step` is called: True leaves the call out (asked before `gradients`)."""
        return False

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """The gradients of an optimizer's parameters are complete, the step follows: change them in place.

        Where the optimizer is given a closure this comes after each of its calls.
        """

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """The step begins; `gradients` was called unless there is a closure."""

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """The step has ended, perhaps by an exception; called for every override whose `before_step` was."""

    def end(self, program: Program) -> None:
        """The program ends."""


POINTS = (
    "begin", "replace_optimizer", "made_optimizer", "copied_optimizer", "first_step", "loader", "batches", "model",
    "before_forward", "after_forward", "loss", "after_loss", "skip_backward", "before_backward", "skip_zero_grad",
    "skip_step", "gradients", "before_step", "after_step", "end",
)  # fmt: skip


def points_of(override: Override) -> frozenset[str]:
    """The points at which an override acts: those that it defines itself."""
    return frozenset(point for point in POINTS if getattr(type(override), point) is not getattr(Override, point))
