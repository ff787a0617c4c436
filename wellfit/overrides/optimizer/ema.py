"""Averages of the weights, used in evaluation."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.modes import Modes
from wellfit.overrides.optimizer._gradients import parameters_in
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import number

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from wellfit.overrides.calls import ForwardCall
    from wellfit.overrides.program import Program


class _Average:
    """The running average of one parameter.

    Attributes:
        value: the average.
        steps: how many weights went into it.
        weights: the weights of training, while the average stands in their place; else None.
    """

    def __init__(self, parameter: Any) -> None:
        self.value = parameter.detach().clone()
        self.steps = 0
        self.weights: Any = None


@dataclass(kw_only=True, eq=False)
class Ema(Override):
    """Averages of the weights, used in evaluation.

    What it changes: after each step the average of every trained parameter of a model becomes d * average +
    (1 - d) * w with d = min(decay, (1 + t) / (10 + t)) after t steps, so that the first weights are soon forgotten. A
    model that is called in evaluation mode (one that is never put into it: without gradients) has the averages as its
    weights, until training goes on. So what a script saves after an evaluation is what was evaluated; what it saves
    between two steps are the weights of training. `load_state_dict` sets weights and averages. BatchNorm's statistics
    and other buffers stay as they are: they are running averages already.

    When it helps: where the validation loss swings from one epoch to the next; in GANs and diffusion models.

    Safety: safe; training is the same to the bit, and only what is evaluated changes. It takes memory for one more
    copy of the weights, in evaluation for two.

    Where it does not apply: to weights that belong to no model that is called. A run that is resumed from a checkpoint
    written after an evaluation goes on from the averages.

    References: Polyak, Juditsky, Acceleration of Stochastic Approximation by Averaging (1992); Izmailov et al.,
    Averaging Weights Leads to Wider Optima and Better Generalization (2018).
    """

    name = "ema"
    summary = "evaluate with the running average of the weights"
    example = "ema=0.999"
    safe = True
    misfit = "no model whose weights an optimizer changes is called before the first step"
    rank = 60

    decay: float = number("share of the average that is kept in each step", low=0, high=0.999999)

    _averages: Any = field(default=None, init=False)  # parameter -> its average
    _of_optimizer: weakref.WeakKeyDictionary[Any, list[tuple[Any, _Average]]] = field(
        default_factory=weakref.WeakKeyDictionary, init=False
    )
    _models: weakref.WeakKeyDictionary[Any, Modes] = field(default_factory=weakref.WeakKeyDictionary, init=False)
    _entered: list[tuple[Any, _Average]] = field(default_factory=list, init=False)  # averages that stand for weights
    _shown: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet, init=False)  # models that have them
    _stood: bool = field(default=False, init=False)  # averages stood for weights once
    _on_averages: Modes | None = field(default=None, init=False)  # the last call with gradients used averages

    def begin(self, program: Program) -> None:
        """See `Override`."""
        import torch
        from torch.utils.weak import WeakIdKeyDictionary

        self._averages = WeakIdKeyDictionary()
        program.patch(torch.nn.Module, "load_state_dict", self._with_load)

    def first_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        trained = {id(parameter) for parameter in parameters_in(optimizer)}
        found = False
        for root in self._models:
            count = sum(id(parameter) in trained for parameter in root.parameters())
            if count:
                found = True
                self.changed(
                    f"{type(root).__name__}: {count} parameters are averaged for evaluation, decay {self.decay:g}"
                )
        if not found:
            self.left_out(program.name(optimizer), "its parameters belong to no model that was called")

    def before_forward(self, program: Program, root: nn.Module, call: ForwardCall) -> None:
        """See `Override`."""
        import torch

        model = self._models.setdefault(root, Modes())
        gradients = torch.is_grad_enabled()
        evaluated = model.is_evaluated(root.training, gradients)
        if not evaluated:
            self._leave()
        elif root not in self._shown:
            self._enter(root)
        if gradients:
            self._on_averages = model if evaluated else None

    def before_backward(self, program: Program, loss: Any) -> None:
        """See `Override`."""
        if self._on_averages is None:
            self._leave()

    def before_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        if self._on_averages is not None:  # that was training after all
            self._on_averages.trains = False
            self._on_averages = None
        self._leave()
        self._pairs(optimizer)

    def after_step(self, program: Program, optimizer: Optimizer) -> None:
        """See `Override`."""
        import torch

        pairs = self._pairs(optimizer)  # a closure may have called the model for the first time, and changed it
        if not pairs:
            return
        for _, average in pairs:
            average.steps += 1
        steps = pairs[0][1].steps
        decay = min(self.decay, (1 + steps) / (10 + steps))
        with torch.no_grad():
            torch._foreach_lerp_([average.value for _, average in pairs], [p for p, _ in pairs], 1 - decay)

    def _pairs(self, optimizer: Optimizer) -> list[tuple[Any, _Average]]:
        """The parameters of an optimizer with their averages."""
        pairs = self._of_optimizer.get(optimizer, [])
        parameters = [p for p in parameters_in(optimizer) if p.is_floating_point() or p.is_complex()]
        if len(pairs) != len(parameters) or any(own is not p for (own, _), p in zip(pairs, parameters)):
            pairs = self._of_optimizer[optimizer] = [(p, self._average(p)) for p in parameters]
        return pairs

    def _average(self, parameter: Any) -> _Average:
        known: _Average | None = self._averages.get(parameter)
        if known is None:
            self._leave()  # a model that is shown without it must be shown anew
            known = self._averages[parameter] = _Average(parameter)
        return known

    def _enter(self, root: nn.Module) -> None:
        """Put the averages in the place of the weights of a model, as far as there are any."""
        try:
            for parameter in root.parameters():
                average = self._averages.get(parameter)
                if average is not None:
                    self._shown.add(root)
                    self._stood = True
                    if average.weights is None:
                        average.weights = parameter.detach().clone()
                        self._entered.append((parameter, average))
                        parameter.data.copy_(average.value)  # past the version counter: the weights will be back
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Put all weights back."""
        for parameter, average in self._entered:
            parameter.data.copy_(average.weights)
            average.weights = None
        self._entered.clear()
        self._shown.clear()

    def _with_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(module: Any, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            self._leave()
            result = original(module, state_dict, *args, **kwargs)
            for name, parameter in module.named_parameters():
                average = self._averages.get(parameter)
                if average is not None and name in state_dict:
                    average.value.copy_(parameter.detach())
            return result

        return load_state_dict

    def end(self, program: Program) -> None:
        """See `Override`."""
        if self.changes and not self._stood:
            self.left_out("all of it", "no model was evaluated")
