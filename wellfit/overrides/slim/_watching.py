"""The base of overrides that want to know what the script's evaluations say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall, LossCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._evaluations import Evaluations


@dataclass(kw_only=True, eq=False)
class Watching(Override):
    """Base class of overrides that follow evaluations (see `_evaluations`): subclass it, fill `evaluated`.

    The first of those that take part tells the others' common follower what happens.
    """

    _evaluations: Evaluations = field(init=False)

    def evaluated(self, program: Program, found: dict[str, Any]) -> None:
        """An evaluation has ended.

        Args:
            found: `after_steps`, `samples`, `loss` (or None), `accuracy` (or None), `passes`.
        """
        raise NotImplementedError

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._evaluations import evaluations_of

        self._evaluations = evaluations_of(program)
        self._evaluations.interested.append(self)
        self._evaluations.listeners.append(lambda found: self.evaluated(program, found))

    def batches(self, program: Program, loader: Any, batches: Iterator[Any]) -> Iterator[Any]:
        """See `Override`."""
        if self._tells():
            self._evaluations.iteration += 1
        return batches

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._tells():
            self._evaluations.called(root, call)

    def after_loss(self, program: Program, call: LossCall) -> None:
        """See `Override`."""
        if self._tells():
            self._evaluations.lost(call)

    def skip_backward(self, program: Program, loss: Any) -> bool:
        """See `Override`."""
        if self._tells():
            self._evaluations.over()
        return False

    def skip_step(self, program: Program, optimizer: Optimizer) -> bool:
        """See `Override`."""
        if self._tells():
            self._evaluations.over()
        return False

    def end(self, program: Program) -> None:
        """See `Override`."""
        self._evaluations.ending = True
        if self._tells():
            self._evaluations.over()

    def _tells(self) -> bool:
        return self._evaluations.interested[0] is self
