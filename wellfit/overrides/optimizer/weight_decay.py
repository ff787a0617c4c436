"""Another weight decay."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.optimizer._gradients import is_weight, parameters_in
from wellfit.overrides.optimizer._rates import put, put_back
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import choice, number, switch
from wellfit.overrides.words import listed

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program

_DECAY = "weight_decay"
_FLAG = "decoupled_weight_decay"  # an option of torch's Adam and its kin
_DECOUPLED = ("AdamW", "Adafactor", "Muon")


@dataclass
class _Plan:
    """How the weights of an optimizer decay.

    Attributes:
        by_hand: weights are multiplied before the step, and the optimizer does nothing; else it does it itself.
        flag: whether Adam and its kin are to do it decoupled; None leaves that as it is.
        active: the step that runs now is under this override.
        waits: weights are to be multiplied when the closure has returned, which uses them as they are.
        undo: what the step that runs now replaced.
    """

    by_hand: bool = False
    flag: bool | None = None
    active: bool = False
    waits: bool = False
    undo: list[tuple[Any, str, Any]] = field(default_factory=list)

    def put(self, group: dict[str, Any], option: str, value: Any) -> None:
        """Set an option of a group until `put_back`."""
        self.undo.append((group, option, group[option]))
        group[option] = value

    def put_back(self, optimizer: Optimizer) -> None:
        """Leave the groups as they were before the step."""
        while self.undo:
            group, option, value = self.undo.pop()
            group[option] = value
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if not isinstance(group, _Extra)]


class _Extra(dict[str, Any]):
    """A parameter group that is there for the length of one step: what does not decay."""


@dataclass(kw_only=True, eq=False)
class WeightDecay(Override):
    """Another weight decay.

    What it changes: the weight decay of every parameter group, in each step. Coupled: strength * w is added to the
    gradient of w, as in SGD and Adam. Decoupled: w is multiplied by 1 - lr * strength before the step, as in AdamW;
    SGD and others without such an option get it that way too. Biases and norm parameters (all with fewer than two
    dimensions) do not decay, unless `all` is on, whatever the script had set. The script's groups stay as they are.

    When it helps: more against overfitting, and where weights grow without end; less where training cannot fit its
    data.

    Safety: unsafe; another function is minimised.

    Where it does not apply: to optimizers without weight decay (LBFGS; Rprop unless decoupled), and to loops without
    an optimizer.

    References: Loshchilov, Hutter, Decoupled Weight Decay Regularization (2019), algorithms 1 and 2; He et al., Bag of
    Tricks for Image Classification (2019), section 3.1, on biases and norms.
    """

    name = "weight-decay"
    summary = "set the weight decay; biases and norm parameters are left out"
    example = "weight-decay=0.01"
    safe = False
    misfit = "the script steps no optimizer whose weights can decay"
    rank = 50

    strength: float = number("share of a weight that is taken away (decoupled: times the learning rate)", low=0)
    kind: str = choice(
        "into the gradient, past it, or as the optimizer does it", ("own", "coupled", "decoupled"), default="own"
    )
    all: bool = switch("biases and norm parameters decay too", default=False)

    _plans: weakref.WeakKeyDictionary[Any, _Plan] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if optimizer in self._plans:
            return
        name = program.name(optimizer)
        parameters = list(parameters_in(optimizer))
        rest = [] if self.all else [parameter for parameter in parameters if not is_weight(parameter)]
        if len(rest) == len(parameters):
            self.left_out(name, "all that it changes are biases, norm parameters or vectors; all:on includes them")
            return
        plan = self._planned(optimizer)
        if isinstance(plan, str):
            self.left_out(name, plan)
            return
        self._plans[optimizer] = plan
        optimizer.register_step_pre_hook(program.fenced(self, "step", self._before))
        optimizer.register_step_post_hook(program.fenced(self, "step", self._after))
        before = sorted({float(group.get(_DECAY, 0)) for group in optimizer.param_groups})
        kind = self.kind if self.kind != "own" else _own_kind(optimizer)
        old = ", ".join(f"{value:g}" for value in before)
        many = f" on {len(parameters) - len(rest)} of {len(parameters)} parameters" if rest else ""
        self.changed(f"{name}: weight decay {old} -> {self.strength:g}{many}" + f" ({kind})" * bool(kind))
        if rest:
            self.left_out(listed(program.parameter_names(rest)), "biases and norm parameters; all:on includes them")

    def _planned(self, optimizer: Optimizer) -> _Plan | str:
        """The plan, or why there is none."""
        groups = optimizer.param_groups
        own = _own_kind(optimizer)
        if any(kind.__name__ == "LBFGS" for kind in type(optimizer).__mro__):
            return "it has no weight decay"
        if self.kind == "decoupled" and own != "decoupled":
            if any(group.get("lr") is None for group in groups):
                return "it has no learning rate, with which weights would decay"
            return _Plan(flag=True) if all(_FLAG in group for group in groups) else _Plan(by_hand=True)
        if any(_DECAY not in group for group in groups):
            return "it has no weight decay; kind:decoupled does it beside the optimizer"
        if self.kind == "coupled" and own != "coupled":
            if all(_FLAG in group for group in groups):
                return _Plan(flag=False)
            return "how it uses its weight decay is not known" if not own else "its own weight decay is decoupled"
        return _Plan()

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        plan = self._plans.get(optimizer)
        if plan is not None:
            plan.active, plan.waits = True, program.closure
            for group in optimizer.param_groups:
                if _DECAY in group:
                    put(optimizer, group, _DECAY, self.strength)

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        plan = self._plans.get(optimizer)
        if plan is not None and plan.active and plan.waits and plan.by_hand:
            plan.waits = False
            for group in optimizer.param_groups:
                self._shrink(group)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        plan = self._plans.get(optimizer)
        if plan is not None:
            plan.active = False
            plan.put_back(optimizer)
            put_back(optimizer)

    # Within the step, past the look of the probe at the groups: it shall see those of the script ----------------------

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        plan = self._plans[optimizer]
        if not plan.active:
            return  # this override was switched off, or nothing of ours acts in this step
        for group in list(optimizer.param_groups):
            if plan.by_hand:
                if not plan.waits:
                    self._shrink(group)
                if _DECAY in group:
                    plan.put(group, _DECAY, 0.0)
                continue
            if plan.flag is not None:
                plan.put(group, _FLAG, plan.flag)
            weights = self._weights(group)
            if len(weights) < len(group["params"]):
                rest = [p for p in group["params"] if not is_weight(p)]
                optimizer.param_groups.append(_Extra(group, params=rest, weight_decay=0.0))
                plan.put(group, "params", weights)

    def _weights(self, group: dict[str, Any]) -> list[Any]:
        return [p for p in group["params"] if self.all or is_weight(p)]

    def _shrink(self, group: dict[str, Any]) -> None:
        import torch

        having = [weight for weight in self._weights(group) if weight.grad is not None]
        if having:
            with torch.no_grad():
                torch._foreach_mul_(having, 1 - float(group["lr"]) * self.strength)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._plans[optimizer].put_back(optimizer)


def _own_kind(optimizer: Optimizer) -> str:
    """Coupled or decoupled; empty if it is not known what the optimizer does with its option."""
    if any(kind.__name__ in _DECOUPLED for kind in type(optimizer).__mro__):
        return "decoupled"
    if _FLAG in optimizer.param_groups[0]:
        return "decoupled" if optimizer.param_groups[0][_FLAG] else "coupled"
    return "coupled" if type(optimizer).__module__.startswith("torch.optim.") else ""
