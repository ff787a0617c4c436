"""What the script's own evaluations say: how many samples, their loss, the share of right answers."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wellfit.overrides.inputs import first_input
from wellfit.overrides.modes import Modes
from wellfit.overrides.places import here_text
from wellfit.probe.patching import Patches

if TYPE_CHECKING:
    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program

_MOST = 1000  # evaluations that are noted
_GUESSES = 8  # results of argmax that may still be compared with the answers
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_of_program: weakref.WeakKeyDictionary[Program, Evaluations] = weakref.WeakKeyDictionary()


def evaluations_of(program: Program) -> Evaluations:
    """The evaluations of a program, which all overrides that want to know of them share."""
    if program not in _of_program:
        _of_program[program] = Evaluations(program)
    return _of_program[program]


@dataclass
class Counts:
    """Right answers among some, as a tensor: reading it would wait for the device."""

    right: Any = 0
    all: Any = 0

    def add(self, right: torch.Tensor, counted: torch.Tensor | None = None) -> None:
        """Take some more: a tensor of bools, and which of them count."""
        if counted is None:
            self.right, self.all = self.right + right.sum(), self.all + right.numel()
        else:
            self.right, self.all = self.right + (right & counted).sum(), self.all + counted.sum()

    @property
    def share(self) -> float | None:
        """Of right answers."""
        return float(self.right) / float(self.all) if float(self.all) else None


@dataclass
class Pass:
    """One pass over some data: calls of one model from one line, over one iteration of a loader.

    Attributes:
        place: " at train.py:12".
        calls: of the model.
        rows: of the first input of the model, over all calls.
        losses, weights: the sum of the losses' means, each times the number of its targets, and these numbers.
        scored: by the scores and the classes that a loss was given.
        compared: by what the script itself compares: argmax of something with whole numbers.
    """

    place: str
    calls: int = 0
    rows: int = 0
    losses: Any = 0.0
    weights: int = 0
    scored: Counts = field(default_factory=Counts)
    compared: Counts = field(default_factory=Counts)

    def as_json(self) -> dict[str, Any]:
        """What it says; accuracy and loss are None where the script computes none that is seen."""
        compared = self.compared.share
        counts = self.scored if compared is None else self.compared
        loss = float(self.losses) / self.weights if self.weights else None
        accuracy = self.scored.share if compared is None else compared
        samples = int(counts.all) if accuracy is not None else self.rows
        return {"place": self.place.removeprefix(" at "), "samples": samples, "loss": loss, "accuracy": accuracy}


class Evaluations:
    """Follows evaluations: what the script computes while its models are called as `Modes` says of an evaluation.

    An evaluation ends when training goes on, or the program ends. Where no loss and no accuracy was computed it is one
    only if a model was called in evaluation mode, and more than once: a target network is called once a step.

    Attributes:
        found: what those that have ended said: step, samples, loss and accuracy of the last pass, and all passes.
        listeners: called with each.
        interested: the overrides that want to know; the first of them tells what happens.
        ending: the program is at its end, so that nothing can end it any more.
    """

    def __init__(self, program: Program) -> None:
        self.found: list[dict[str, Any]] = []
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self.interested: list[Any] = []
        self.ending = False
        self.iteration = 0  # of a loader
        self._program = weakref.ref(program)
        self._modes: weakref.WeakKeyDictionary[nn.Module, Modes] = weakref.WeakKeyDictionary()
        self._passes: dict[tuple[Any, ...], Pass] = {}
        self._now: Pass | None = None
        self._deliberate = False
        self._own = False
        self._guesses: list[torch.Tensor] = []
        self._patches = Patches()

    @property
    def running(self) -> bool:
        """Whether the last call of a model belongs to an evaluation."""
        return self._now is not None

    def called(self, root: nn.Module, call: ForwardCall) -> bool:
        """A model is about to be called; whether that belongs to an evaluation."""
        if not self._modes.setdefault(root, Modes()).is_evaluated(root.training, torch.is_grad_enabled()):
            self.over()
            return False
        if not self._passes:
            self._watch()
        place = here_text()
        self._now = self._passes.setdefault((id(root), place, self.iteration), Pass(place))
        self._deliberate |= not root.training
        self._now.calls += 1
        given = first_input(call)
        self._now.rows += given.tensor.shape[0] if given is not None and given.tensor.dim() else 0
        return True

    def lost(self, call: LossCall) -> None:
        """A loss was computed."""
        if self._now is None or not isinstance(call.result, torch.Tensor) or not isinstance(call.target, torch.Tensor):
            return
        prediction, target, result = call.prediction, call.target, call.result.detach()
        count = target.shape[0] if target.dim() else 1
        mean = result.sum() / count if call.options.get("reduction", "mean") == "sum" else result.mean()
        self._now.losses = self._now.losses + mean * count
        self._now.weights += count
        classes = call.function in ("cross_entropy", "nll_loss") and target.dtype in _WHOLE
        if classes and prediction.dim() == target.dim() + 1 and prediction.dim() >= 2:
            ignored = call.options.get("ignore_index", -100)
            with self._unseen():
                self._now.scored.add(prediction.detach().argmax(1) == target, target != ignored)

    def over(self) -> None:
        """Training goes on, or the program ends."""
        passes, self._passes, self._now = list(self._passes.values()), {}, None
        deliberate, self._deliberate = self._deliberate, False
        self._patches.undo_all()
        self._guesses.clear()
        program = self._program()
        if not passes or program is None:
            return
        said = [one.as_json() for one in passes]
        told = [one for one in said if one["loss"] is not None or one["accuracy"] is not None]
        if not told and not (deliberate and sum(one.calls for one in passes) > 1):
            return
        last = (told or said)[-1]
        found = {"after_steps": program.step, **{key: last[key] for key in ("samples", "loss", "accuracy")}}
        found["passes"] = said
        if len(self.found) < _MOST:
            self.found.append(found)
            program.note("evaluated", **found)
        for listener in list(self.listeners):
            listener(found)

    # ------------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _unseen(self) -> Iterator[None]:
        """What is compared in here is our own."""
        self._own = True
        try:
            yield
        finally:
            self._own = False

    def _watch(self) -> None:
        """While an evaluation lasts: see argmax and its kin, and comparisons of what they give."""
        for holder, name in ((torch.Tensor, "argmax"), (torch, "argmax"), (torch.Tensor, "max"), (torch, "max")):
            self._patches.patch(holder, name, self._with_guess)
        for holder, name in ((torch.Tensor, "__eq__"), (torch.Tensor, "eq"), (torch, "eq")):
            self._patches.patch(holder, name, self._with_comparison)

    def _with_guess(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def guess(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            indices = getattr(result, "indices", None) if isinstance(result, tuple) else result
            if not self._own and isinstance(indices, torch.Tensor) and indices.dtype == torch.int64 and indices.dim():
                self._guesses = [*self._guesses[1 - _GUESSES :], indices]
            return result

        return guess

    def _with_comparison(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compare(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._now is not None and not self._own and len(args) == 2 and isinstance(result, torch.Tensor):
                self._compared(args[0], args[1], result)
            return result

        return compare

    def _compared(self, one: Any, other: Any, right: torch.Tensor) -> None:
        whole = all(isinstance(each, torch.Tensor) and each.dtype in _WHOLE for each in (one, other))
        if not whole or one.numel() != other.numel() or right.numel() != one.numel():
            return
        held = [any(_same_numbers(guess, each) for guess in self._guesses) for each in (one, other)]
        if held[0] != held[1] and self._now is not None:
            self._now.compared.add(right)


def _same_numbers(guess: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether a tensor is another one, or a view of all of it."""
    return tensor is guess or (tensor.numel() == guess.numel() and tensor.data_ptr() == guess.data_ptr())
