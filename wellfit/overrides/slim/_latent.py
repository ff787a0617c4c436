"""Latent weights: an optimizer steps on them, and between its steps the parameters hold what is made of them.

This is the straight-through estimator of Bengio, Leonard and Courville (Estimating or Propagating Gradients Through
Stochastic Neurons, 2013) as weights are trained with it (Courbariaux et al., BinaryConnect, 2015): the gradient is that
at the weights that are shown, and it moves the latent ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from wellfit.overrides.optimizer._gradients import parameters_in
from wellfit.overrides.slim._weights import Model, Weight

if TYPE_CHECKING:
    from wellfit.overrides.program import Program
    from wellfit.overrides.slim._stage import Stage

_of_program: weakref.WeakKeyDictionary[Program, Latents] = weakref.WeakKeyDictionary()


def latents_of(program: Program) -> Latents:
    """The latent weights of a program, which all overrides that make weights small share."""
    if program not in _of_program:
        _of_program[program] = Latents(program)
    return _of_program[program]


def made_of(program: Program, parameter: Any) -> dict[str, Any]:
    """What overrides have made of a parameter, for people and programs; empty if nothing."""
    latents = _of_program.get(program)
    weight = latents.weight(parameter) if latents is not None else None
    made: dict[str, Any] = {}
    if latents is not None and weight is not None:
        for stage in latents.stages:
            made |= stage.about(weight)
    return made


class Latents:
    """The latent weights of the models that a program trains.

    Attributes:
        stages: the overrides that make something of them, each of what the one before has made.
        models: those whose weights are made small.
    """

    def __init__(self, program: Program) -> None:
        self.stages: list[Stage] = []
        self.models: list[Model] = []
        self._program = weakref.ref(program)
        self._weights: Any = WeakIdKeyDictionary()  # parameter -> its weight
        self._roots: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models that were called
        self._waiting: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # of these, those that nothing trains yet
        self._inside: list[Weight] = []  # of the optimizer that steps now
        program.patch(nn.Module, "load_state_dict", self._with_load)

    def weight(self, parameter: Any) -> Weight | None:
        """The weight of a parameter, if it is made small."""
        found: Weight | None = self._weights.get(parameter)
        return found

    # Points -----------------------------------------------------------------------------------------------------------

    def called(self, root: nn.Module) -> None:
        """A model is about to be called."""
        if root not in self._roots:
            self._roots.add(root)
            self._waiting.add(root)
            self.look_again()
        if any(weight.stepping for weight in self._inside):  # by the closure of a step
            for weight in self._inside:
                weight.leave_step()
            self._show(self._models_of(self._inside))

    def gradients(self, optimizer: Any) -> None:
        """The gradients of an optimizer are there. They are those of the weights that were shown: a step that was given
        a closure goes on from the latent ones."""
        for weight in self._inside:
            weight.enter_step()
        for model in self._models_of(self._held(optimizer)):
            self._ask_all("see_gradients", model)

    def begin_step(self, optimizer: Any) -> None:
        """An optimizer is about to step."""
        self.look_again()
        self._inside = self._held(optimizer)
        for weight in self._inside:
            weight.enter_step()

    def end_step(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        self.look_again()
        for weight in self._inside:
            weight.leave_step()
        self._inside = []
        self._show(self._models_of(self._held(optimizer)))

    def look_again(self) -> None:
        """Take on models that were called, and that an optimizer holds by now (or that nothing trains)."""
        program = self._program()
        if not self._waiting or program is None:
            return
        held = {id(parameter) for optimizer in program.optimizers for parameter in parameters_in(optimizer)}
        for root in list(self._waiting):
            if not held or any(id(parameter) in held for parameter in root.parameters()):
                self._waiting.discard(root)
                self._take_on(Model(root, self._weights))

    def settle(self) -> None:
        """The program ends: what the script has written into parameters last is made small too."""
        self._made_anew([weight for model in self.models for weight in model.weights])

    def untrained(self) -> list[str]:
        """The models that were called, and that no optimizer holds: averages of weights, copies."""
        return [type(root).__name__ for root in self._waiting]

    # ------------------------------------------------------------------------------------------------------------------

    def _take_on(self, model: Model) -> None:
        self.models = [known for known in self.models if known.alive]
        if model.weights:
            self.models.append(model)
            for weight in model.weights:
                self._weights[weight.parameter] = weight
            self._ask_all("taken_on", model)
            self._show([model])

    def _held(self, optimizer: Any) -> list[Weight]:
        return [weight for parameter in parameters_in(optimizer) if (weight := self.weight(parameter)) is not None]

    def _models_of(self, weights: list[Weight]) -> list[Model]:
        held = set(map(id, weights))
        return [model for model in self.models if model.alive and any(id(weight) in held for weight in model.weights)]

    def _show(self, models: list[Model]) -> None:
        program = self._program()
        step = program.step if program is not None else 0
        for model in models:
            acting = [stage for stage in self.stages if stage.acts(step)]
            weights = [weight for weight in model.weights if not weight.stepping]
            if not acting and not any(weight.latent is not None for weight in weights):
                continue
            before = [weight.values() for weight in weights]
            values = list(before)
            with torch.inference_mode(False), torch.no_grad():  # latent values are kept, and written to later
                for stage in acting:
                    values = self._ask(stage, "make", model, weights, values, step) or values
                for weight, value, own in zip(weights, values, before, strict=True):
                    if value is not own or weight.latent is not None:
                        weight.show(value)

    def _ask_all(self, what: str, model: Model) -> None:
        for stage in list(self.stages):
            self._ask(stage, what, model)

    def _ask(self, stage: Stage, what: str, *args: Any) -> Any:
        """What an override answers; one that fails is no longer asked."""
        program, answers = self._program(), []
        if program is not None:
            program.fenced(stage, "after_step", lambda: answers.append(getattr(stage, what)(*args)))()
            if not answers:
                self.stages.remove(stage)
        return answers[0] if answers else None

    def _with_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(module: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(module, *args, **kwargs)
            self._made_anew([weight for p in module.parameters() if (weight := self.weight(p)) is not None])
            return result

        return load_state_dict

    def _made_anew(self, weights: list[Weight]) -> None:
        """Where the script has put other weights in the place of those that it was shown, these are latent now."""
        for model in self._models_of([weight for weight in weights if weight.replaced()]):
            self._ask_all("loaded", model)
            self._show([model])
