"""The base of overrides that make weights small."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.override import Override

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._latent import Latents
    from wellfit.overrides.slim._weights import Model, Weight


@dataclass(kw_only=True, eq=False)
class Stage(Override):
    """Base class of overrides that make something of latent weights (see `_latent`): subclass it, fill `make`.

    The first of those that take part lets all of them act, in the order of their ranks. It acts before overrides that
    change weights in a step, which change the latent ones.
    """

    conflicts = ("ema",)

    _latents: Latents = field(init=False)

    # For subclasses ---------------------------------------------------------------------------------------------------

    def taken_on(self, model: Model) -> None:
        """A model is trained: say what will be changed of it."""
        raise NotImplementedError

    def acts(self, step: int) -> bool:
        """Whether something is made of the weights after so many steps."""
        raise NotImplementedError

    def make(self, model: Model, weights: list[Weight], values: list[Tensor], step: int) -> list[Tensor]:
        """What is made of some weights of a model: others than these are in a step.

        Args:
            weights: all weights and biases of the model that are in no step.
            values: what was made of each so far; not to be written to.
            step: steps that were made.

        Returns:
            a tensor for each, the same one where nothing is changed.
        """
        raise NotImplementedError

    def loaded(self, model: Model) -> None:
        """The script has loaded other weights into a model: forget what was found out about the old ones."""
        raise NotImplementedError

    def see_gradients(self, model: Model) -> None:
        """Gradients of some parameters of a model are there: they may be changed in place."""

    def about(self, weight: Weight) -> dict[str, Any]:
        """What this override has made of a weight, for `keep-weights`; empty if nothing."""
        raise NotImplementedError

    # Points -----------------------------------------------------------------------------------------------------------

    def begin(self, program: Program) -> None:
        """See `Override`."""
        from wellfit.overrides.slim._latent import latents_of

        self._latents = latents_of(program)
        self._latents.stages.append(self)

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        if self._leads():
            self._latents.called(root)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self._leads():
            self._latents.look_again()

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self._leads():
            self._latents.gradients(optimizer)

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self._leads():
            self._latents.begin_step(optimizer)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self._leads():
            self._latents.end_step(optimizer)

    def end(self, program: Program) -> None:
        """See `Override`."""
        if self._leads():
            self._latents.settle()
        if self.changes:
            for name in self._latents.untrained():
                self.left_out(name, "no optimizer trains it: its weights are those that it was given")

    def _leads(self) -> bool:
        return bool(self._latents.stages) and self._latents.stages[0] is self
