"""The layers of a model that a plan is about."""

from __future__ import annotations

from torch import nn

from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import evaluating
from wellfit.slim.planning.applying import parameters_of, weights_of


def weighty(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Layers with weights of their own; and those whose weights are those of an earlier one, with its name."""
    owners: dict[int, str] = {}
    layers: dict[str, nn.Module] = {}
    ties: dict[str, str] = {}
    for name, module in model.named_modules():
        weights = list(weights_of(module)) if any(True for _ in module.parameters(recurse=False)) else []
        weights = [weight for weight in weights if any(weight is own for own in module.parameters(recurse=False))]
        if not weights:
            continue
        tied = next((owners[id(weight)] for weight in weights if id(weight) in owners), None)
        if tied is not None:
            ties[name] = tied
            continue
        owners |= {id(weight): name for weight in weights}
        layers[name] = module
    return layers, ties


def one_sample(model: nn.Module, inputs: Inputs) -> Inputs | None:
    """The first sample of a batch; None if the model does not take it."""
    try:
        one = inputs.resized(1)
        with evaluating(model):
            one.copied().call(model)
    except Exception:
        return None
    return one


def layer_kinds(model: nn.Module) -> dict[str, tuple[str, int]]:
    """By layer with parameters of its own its class and how many numbers it holds."""
    return {
        name: (type(module).__name__, parameters_of(module))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
