"""Another optimizer."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.optimizer._gradients import parameters_in
from wellfit.overrides.optimizer._rates import Trainings, base_rates, multiply_by_scale, put_back, scale_rates
from wellfit.overrides.override import CannotGoOn, Override
from wellfit.overrides.parameters import choice, number, text
from wellfit.overrides.places import here_text

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wellfit.overrides.program import Program


@dataclass(frozen=True)
class _Kind:
    """One of torch's optimizers.

    Attributes:
        name: of its class in `torch.optim`.
        rate: the learning rate where the script's own means something else.
        family: optimizers whose rates mean the same.
        options: what makes it this one.
        sparse: takes sparse gradients.
    """

    name: str
    rate: float
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    sparse: bool = False


_COUPLED = {"decoupled_weight_decay": False}
_KINDS = {
    "sgd": _Kind("SGD", 0.01, "gradient", {"momentum": 0.0, "nesterov": False}, sparse=True),
    "momentum": _Kind("SGD", 0.01, "gradient", {"momentum": 0.9, "nesterov": False}, sparse=True),
    "nag": _Kind("SGD", 0.01, "gradient", {"momentum": 0.9, "nesterov": True}, sparse=True),
    "adagrad": _Kind("Adagrad", 0.01, "Adagrad", sparse=True),
    "adadelta": _Kind("Adadelta", 1.0, "Adadelta"),
    "rmsprop": _Kind("RMSprop", 0.001, "adaptive"),
    "adam": _Kind("Adam", 0.001, "adaptive"),
    "adamw": _Kind("AdamW", 0.001, "adaptive"),
    "adamax": _Kind("Adamax", 0.001, "adaptive"),
    "nadam": _Kind("NAdam", 0.001, "adaptive"),
    "rprop": _Kind("Rprop", 0.01, "Rprop"),
    "lbfgs": _Kind("LBFGS", 1.0, "LBFGS", {"line_search_fn": "strong_wolfe"}),
}
# What a group keeps where both optimizers have it, besides its rate and weight decay.
_KEPT = ("maximize", "betas", "eps", "amsgrad")


@dataclass(kw_only=True, eq=False)
class SwapOptimizer(Override):
    """Another optimizer.

    What it changes: in the place of each optimizer that the script makes it gets one of torch's, for the same
    parameters: sgd, momentum (SGD with momentum 0.9), nag (the same with Nesterov's), adagrad, adadelta, rmsprop, adam,
    adamw, adamax, nadam, rprop, lbfgs (with a line search). Parameter groups, the ratios of their rates, their weight
    decay and, among Adam and its kin, betas and eps are kept. The largest rate (as for the override `lr`: the peak of a
    cycle, the base of a schedule) is `lr`; if that is not given, the script's own where it means the same (within SGD,
    momentum, nag; within rmsprop, adam, adamw, adamax, nadam), else 0.01 for sgd, momentum, nag, adagrad and rprop,
    0.001 for rmsprop and the Adams, 1 for adadelta and lbfgs. Schedulers go on and keep their shape: the script reads
    and writes rates as for its own optimizer, and each step multiplies them. A momentum that a scheduler cycles is
    cycled where the new optimizer has one.

    When it helps: Adam where gradients of layers differ in size (Transformers, embeddings, recurrent networks); SGD
    with momentum where Adam learns the training data only.

    Safety: unsafe; the result of training is another one.

    Where it does not apply: lbfgs needs a closure in `step`; optimizers with methods of their own that the script calls
    (SAM's first_step); sparse gradients, except to sgd, momentum, nag and adagrad. Where that shows only at a later
    step, the run ends there. State that the script loads from a checkpoint of its own optimizer is left out.

    References: Ruder, An overview of gradient descent optimization algorithms (2016); Kingma, Ba, Adam (2015);
    Loshchilov, Hutter, Decoupled Weight Decay Regularization (2019); Liu, Nocedal, On the limited memory BFGS method
    (1989).
    """

    name = "optimizer"
    summary = "give the script another optimizer: sgd, momentum, adam, adamw, lbfgs, ..."
    example = "optimizer=adamw,lr:0.001"
    safe = False
    misfit = "the script makes no optimizer of torch's kind"
    rank = 40
    # Those that were replaced stay so, and step with rates of their own.
    lasting = ("copied_optimizer", "skip_step", "first_step", "gradients", "before_step", "after_step")

    kind: str = choice("the optimizer", tuple(_KINDS))
    lr: float | None = number("learning rate of the group with the largest", above=0, default=None)
    only: str | None = text("the one to replace: its class, or its number in the order of making", default=None)

    _lines: list[str] = field(default_factory=list, init=False)  # where optimizers are made, in order
    # What each stands for: the family and the place of the script's own.
    _replaced: weakref.WeakKeyDictionary[Any, tuple[str, str]] = field(
        default_factory=weakref.WeakKeyDictionary, init=False
    )
    _scales: Trainings[float] = field(init=False)
    _dense: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)  # replaced, and seen to fit

    def __post_init__(self) -> None:
        self._scales = Trainings(self._scale)

    def check_beside(self, others: Sequence[Override]) -> None:
        """See `Override`."""
        rate = next(
            (other for other in others if other.name == "lr" and getattr(other, "value", None) is not None), None
        )
        if self.lr is not None and rate is not None:
            raise WellfitError("optimizer=...,lr: and lr= both set the learning rate: leave one")

    def replace_optimizer(self, program: Program, optimizer: Optimizer) -> Optimizer | None:
        """See `Override`."""
        import torch
        from torch.optim import Optimizer

        where = f"{type(optimizer).__name__}{here_text()}"
        if where not in self._lines:
            self._lines.append(where)
        number = self._lines.index(where) + 1
        chosen = (str(number), type(optimizer).__name__.lower())
        if self.only is not None and self.only.lower() not in chosen:
            self.left_out(where, f"it is number {number}, and only:{self.only} was asked for")
            return None
        kind = _KINDS[self.kind]
        own = [name for name in dir(optimizer) if not name.startswith("_") and callable(getattr(optimizer, name))]
        methods = sorted(name for name in own if not hasattr(Optimizer, name))
        if methods:
            self.left_out(where, f"it has methods that others lack ({', '.join(methods)})")
            return None
        if self.lr is None and _is_already(optimizer, kind):
            self.met(where, f"it is {self.kind} already")
            return None
        with program.unseen():
            groups = self._groups(optimizer, kind)
            other: Optimizer = getattr(torch.optim, kind.name)(groups, lr=self._rate(kind), **kind.options)
        _keep_momentum_cycles(optimizer, other)
        self._put(other, (_family(optimizer), where))
        return other

    def copied_optimizer(self, program: Program, optimizer: Optimizer, copy: Optimizer) -> None:
        """See `Override`."""
        if optimizer in self._replaced:
            self._put(copy, self._replaced[optimizer])
            self._scales.carry(optimizer, copy)

    def _put(self, other: Optimizer, stands_for: tuple[str, str]) -> None:
        other.register_load_state_dict_pre_hook(self._loads)
        other.register_load_state_dict_post_hook(self._loaded)
        self._replaced[other] = stands_for

    def _rate(self, kind: _Kind) -> float:
        return self.lr or kind.rate

    def skip_step(self, program: Program, optimizer: Optimizer) -> bool:
        """See `Override`."""
        if self.kind == "lbfgs" and optimizer in self._replaced and not program.closure:
            raise CannotGoOn("LBFGS computes the loss several times in a step, and the script gives step no closure")
        return False

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if optimizer in self._replaced:
            for other in list(self._replaced):  # before the first weight moves
                self._refuse_sparse(program, other)
            scale_rates(optimizer, self._scales.of(program, optimizer))

    def gradients(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if optimizer in self._replaced and optimizer not in self._dense:
            self._refuse_sparse(program, optimizer)  # a closure computes them after `first_step`
            self._dense.add(optimizer)

    def _refuse_sparse(self, program: Program, optimizer: Optimizer) -> None:
        kind = _KINDS[self.kind]
        sparse = [p for p in parameters_in(optimizer) if p.grad is not None and p.grad.is_sparse]
        if sparse and not kind.sparse:
            names = ", ".join(program.parameter_names(sparse[:3]))
            raise CannotGoOn(f"the gradient of {names} is sparse, and {kind.name} takes none")

    def _scale(self, program: Program, optimizer: Optimizer) -> float:
        """What the rates are multiplied with that the script writes: they were meant for its own optimizer."""
        kind = _KINDS[self.kind]
        family, place = self._replaced[optimizer]
        base = max(base_rates(program, optimizer))
        rate = base if self.lr is None and family == kind.family else self._rate(kind)
        self.changed(f"{place}: {self.kind} instead, lr {base:g} -> {rate:g}")
        return rate / base

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        multiply_by_scale(optimizer)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        put_back(optimizer)

    def _groups(self, optimizer: Optimizer, kind: _Kind) -> list[dict[str, Any]]:
        """The parameter groups for the other optimizer: what the script added to them stays, options that both have
        are kept."""
        import torch

        parameter = torch.nn.Parameter(torch.zeros(1))
        options = getattr(torch.optim, kind.name)([parameter], **kind.options).defaults
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            decay = group.get("weight_decay", 0.0)
            new = {key: value for key, value in group.items() if key not in optimizer.defaults}
            new["params"] = list(group["params"])
            new["lr"] = group.get("lr") or self._rate(kind)
            kept = _KEPT if _family(optimizer) == kind.family else ("maximize",)
            new.update({key: group[key] for key in kept if key in group and key in options})
            if "weight_decay" in options:
                new["weight_decay"] = decay
            elif decay:
                self.left_out(f"weight decay {decay:g}", f"{kind.name} has none")
            groups.append(new)
        if kind.name != "LBFGS":
            return groups
        if len(groups) > 1:
            self.left_out(f"{len(groups)} parameter groups", "LBFGS has one, with one rate")
        rate = max(group["lr"] for group in groups)
        return [{"params": [parameter for group in groups for parameter in group["params"]], "lr": rate}]

    def _loads(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        """The script loads a saved state: another optimizer's is of no use."""
        if all(optimizer.defaults.keys() <= group.keys() for group in state["param_groups"]):
            return None
        self.left_out("a saved state that the script loads", "it is another optimizer's")
        return optimizer.state_dict()

    def _loaded(self, optimizer: Optimizer) -> None:
        options = {**_KINDS[self.kind].options, **(_COUPLED if self.kind == "adam" else {})}
        for group in optimizer.param_groups:
            group.update({key: value for key, value in options.items() if key in group})


def _family(optimizer: Optimizer) -> str:
    names = {kind.__name__ for kind in type(optimizer).__mro__}
    for kind in _KINDS.values():
        if kind.name in names:
            return kind.family
    if "betas" in optimizer.defaults:
        return "adaptive"
    return "gradient" if "momentum" in optimizer.defaults or "ASGD" in names else type(optimizer).__name__


def _is_already(optimizer: Optimizer, kind: _Kind) -> bool:
    return type(optimizer).__name__ == kind.name and all(
        group.get(key) == value for group in optimizer.param_groups for key, value in kind.options.items()
    )


def _keep_momentum_cycles(optimizer: Optimizer, other: Optimizer) -> None:
    """Schedulers that cycle the momentum ask for one: an option that nothing reads."""
    cycled = ("momentum", "betas")
    if any(key in optimizer.defaults for key in cycled) and not any(key in other.defaults for key in cycled):
        other.defaults["momentum"] = 0.0
        for group in other.param_groups:
            group.setdefault("momentum", 0.0)
