"""One forward pass of a model with an eye on its modules: what each gets and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import same_chances


@dataclass(frozen=True)
class Passed:
    """One call of a module, in the order in which they ended."""

    name: str
    module: nn.Module
    given: Any
    result: Any


def passes(model: nn.Module, inputs: Inputs) -> list[Passed]:
    """The calls of all modules in one forward pass; each module is named by its first name.

    Args:
        model: a copy in evaluation mode.
        inputs: an example.
    """
    calls: list[Passed] = []
    names = {id(module): name for name, module in model.named_modules()}

    def note(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        calls.append(Passed(names[id(module)], module, given, result))

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in dict.fromkeys(model.modules())]
    try:
        with same_chances():
            inputs.copied().call(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def once(calls: list[Passed]) -> dict[str, Passed]:
    """The modules that were called exactly once, with one tensor first and one tensor out."""
    count: dict[str, int] = {}
    for call in calls:
        count[call.name] = count.get(call.name, 0) + 1
    return {
        call.name: call
        for call in calls
        if count[call.name] == 1 and isinstance(call.given, torch.Tensor) and isinstance(call.result, torch.Tensor)
    }
