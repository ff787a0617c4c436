"""Carrying out a plan: a new model, and what could not be done."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.cp import Cp
from wellfit.slim.changes.fold import Fold
from wellfit.slim.changes.quantised import Quantised
from wellfit.slim.changes.svd import Svd
from wellfit.slim.changes.tucker import Tucker
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.checked import said
from wellfit.slim.methods.choice import choose
from wellfit.slim.methods.coupled.groups import coupling
from wellfit.slim.methods.grid import on_grid
from wellfit.slim.methods.importance import magnitude
from wellfit.slim.methods.prune import pruned
from wellfit.slim.methods.rounding import rounded
from wellfit.slim.methods.share import shared
from wellfit.slim.methods.structured import checked_cut
from wellfit.slim.planning.plan import Skipped
from wellfit.slim.planning.step import VALUES, Step

if TYPE_CHECKING:
    from wellfit.slim.planning.plan import Plan


@dataclass(frozen=True)
class Slimmed:
    """What `apply` made.

    Args:
        model: the new module.
        changes: of its structure, for `save`.
        steps: that were taken.
        skipped: steps that could not be taken, with the reason, and layers that the plan leaves alone.
        plan: that was carried out; None where steps were taken without one.
    """

    model: nn.Module
    changes: tuple[Change, ...]
    steps: tuple[Step, ...]
    skipped: tuple[Skipped, ...]
    plan: Plan | None = None


def apply(model: nn.Module, plan: Plan, inputs: Any = None) -> Slimmed:
    """Carry out a plan.

    Args:
        model: the trained model that the plan was made for; is not changed.
        plan: made by `plan`, read by `Plan.load`, or written by hand.
        inputs: an example batch, where the plan cuts channels and was read from a file: cuts are checked by outputs.

    Returns:
        a new model, the changes that were made of its structure, and all that was skipped.

    Raises:
        WellfitError: the plan names a layer that the model does not have, or cuts channels without example inputs.
    """
    known = dict(model.named_modules())
    for number, step in enumerate(plan.steps, 1):
        if step.layer not in known:
            raise WellfitError(
                f'step {number}: {type(model).__name__} has no layer "{step.layer}"{did_you_mean(step.layer, known)}'
            )
    example = plan.inputs if inputs is None else inputs
    if example is None and any(step.method == "cut" for step in plan.steps):
        raise WellfitError("the plan cuts channels, which is checked by the outputs: give example inputs (inputs=...)")
    made = carried_out(model, plan.steps, None if example is None else Inputs.of(example))
    return Slimmed(made.model, made.changes, made.steps, (*made.skipped, *plan.skipped), plan)


def carried_out(model: nn.Module, steps: Sequence[Step], inputs: Inputs | None) -> Slimmed:
    """Steps on a copy of the model, one after the other; those that cannot be taken are skipped."""
    try:
        made = copy.deepcopy(model)
    except Exception as error:
        raise WellfitError(f"the model cannot be copied: {said(error)}") from error
    changes: list[Change] = []
    taken: list[Step] = []
    skipped: list[Skipped] = []
    sizes = {step.layer: parameters_of(model.get_submodule(step.layer)) for step in steps}
    for step in steps:
        try:
            changes += take(made, step, inputs)
            taken.append(step)
        except Unfit as error:
            reason = str(error).removeprefix(f"{step.layer}: ")
            skipped.append(Skipped(step.layer, step.method, reason, sizes[step.layer]))
    return Slimmed(made, tuple(changes), tuple(taken), tuple(skipped))


def take(model: nn.Module, step: Step, inputs: Inputs | None) -> list[Change]:
    """One step on a model, in place; the changes of its structure.

    Raises:
        Unfit: it cannot be taken; the model is as it was.
    """
    if step.method in VALUES:
        change_values(model, step)
        return []
    change = change_of(model, step, inputs)
    try:
        change.apply(model)
    except Unfit:
        raise
    except Exception as error:  # of a backend
        raise Unfit(said(error)) from error
    return [change]


def change_of(model: nn.Module, step: Step, inputs: Inputs | None) -> Change:
    """The change of structure that a step means.

    Raises:
        Unfit: it cannot be made.
    """
    strength: Any = step.strength
    if step.method == "fold":
        return Fold(step.layer, strength)
    if step.method == "svd":
        return Svd(step.layer, strength)
    if step.method == "tucker":
        return Tucker(step.layer, *strength)
    if step.method == "cp":
        return Cp(step.layer, strength)
    if step.method == "int8":
        return Quantised(step.layer, "int8")
    assert step.method == "cut" and inputs is not None
    found = coupling(model, inputs)
    group = found.group(step.layer)
    kept = choose({step.layer: magnitude(model, group)}, strength, scope="layer")[step.layer]
    return checked_cut(model, inputs, found, {step.layer: kept})


def change_values(model: nn.Module, step: Step) -> None:
    """A step that changes values only, in place.

    Raises:
        Unfit: the layer has no such weights; nothing is changed then.
    """
    strength: Any = step.strength
    found = list(weights_of(model.get_submodule(step.layer), with_biases=step.method == "round"))
    if not found:
        raise Unfit("it holds no weights of two dimensions and more")
    if any(tensor.layout is not torch.strided for tensor in found):
        raise Unfit("its weights are in a sparse layout: make them dense first (to_dense)")
    if step.method != "prune" and any(tensor.is_complex() for tensor in found):
        raise Unfit("its weights are complex numbers")
    if any(not bool(torch.isfinite(tensor).all()) for tensor in found):
        raise Unfit("its weights are not all finite")
    values = [_value(tensor.detach(), step.method, strength) for tensor in found]
    with torch.no_grad():
        for tensor, value in zip(found, values):
            tensor.copy_(value)


def _value(tensor: torch.Tensor, method: str, strength: Any) -> torch.Tensor:
    if method == "prune":
        return pruned(tensor, strength)
    if method == "share":
        return shared(tensor, strength)
    if method == "grid":
        return on_grid(tensor, strength)
    return rounded(tensor, strength)


def weights_of(layer: nn.Module, *, with_biases: bool = False) -> Iterator[torch.Tensor]:
    """The weights of a layer, each once: its own parameters of two dimensions and more; those of all modules in it
    where it has none of its own, as after it was factored.

    Args:
        layer: of a model.
        with_biases: the smaller parameters too.
    """
    own = any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False))
    for parameter in layer.parameters(recurse=not own):
        if (parameter.dim() > 1 or with_biases) and (parameter.is_floating_point() or parameter.is_complex()):
            yield parameter


def parameters_of(layer: nn.Module) -> int:
    """How many numbers a layer holds: its own parameters; all in it if it has none."""
    own = list(layer.parameters(recurse=False))
    return sum(parameter.numel() for parameter in own or layer.parameters())
