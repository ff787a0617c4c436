"""Another momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.overrides.optimizer._rates import put, put_back
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program

_WITHOUT = ("Adagrad", "Adadelta", "Rprop", "LBFGS", "ASGD")  # of torch's: those that have none


@dataclass(kw_only=True, eq=False)
class Momentum(Override):
    """Another momentum.

    What it changes: `momentum` of SGD and RMSprop, the first beta of Adam and its kin, in all parameter groups and in
    each step, also where a scheduler cycles it. With SGD a step is v = momentum * v + g, w = w - lr * v, so that the
    length of steps in a lasting direction grows to lr / (1 - momentum); with Adam the betas average, and the length
    stays.

    When it helps: more (0.9) where the loss falls slowly and without swings, less where it swings; with a GAN's Adam
    0.5 instead of 0.9.

    Safety: safe; the same function is minimised.

    Where it does not apply: to optimizers without momentum (Adagrad, Adadelta, Rprop, ASGD, LBFGS). `optimizer=nag`
    gives Nesterov's.

    References: Sutskever et al., On the importance of initialization and momentum in deep learning (2013); Radford,
    Metz, Chintala, Unsupervised Representation Learning with DCGAN (2016), section 3, on 0.5.
    """

    name = "momentum"
    summary = "set the momentum of SGD and RMSprop, the first beta of Adam and its kin"
    example = "momentum=0.9"
    safe = True
    misfit = "the script steps no optimizer that has momentum"
    rank = 50

    value: float = number("share of the last direction that is kept", low=0, high=0.9999)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        name = program.name(optimizer)
        groups = optimizer.param_groups
        if not any(_has_momentum(optimizer, group) for group in groups):
            self.left_out(name, "it has no momentum")
            return
        before = sorted({_momentum(group) for group in groups if _has_momentum(optimizer, group)})
        which = "momentum" if "momentum" in groups[0] else "beta1"
        self.changed(f"{name}: {which} {', '.join(f'{value:g}' for value in before)} -> {self.value:g}")

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        for group in optimizer.param_groups:
            if _has_momentum(optimizer, group):
                if "momentum" in group:
                    put(optimizer, group, "momentum", self.value)
                else:
                    put(optimizer, group, "betas", (self.value, *group["betas"][1:]))

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        put_back(optimizer)


def _has_momentum(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Also a group of another kind may have the key: a scheduler that cycles momentum writes it."""
    without = any(kind.__name__ in _WITHOUT for kind in type(optimizer).__mro__)
    return not without and ("momentum" in group or "betas" in group)


def _momentum(group: dict[str, Any]) -> float:
    return float(group["momentum"] if "momentum" in group else group["betas"][0])
