"""A model's answers with one layer pruned or shared, beside its answers as it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.overrides.nested import mapped, reals_in
from wellfit.overrides.slim._clusters import clusters
from wellfit.overrides.slim._weights import Model, Weight
from wellfit.overrides.traceless import no_trace, same_random_numbers
from wellfit.overrides.words import in_short

if TYPE_CHECKING:
    from wellfit.overrides.program import Program

VERSION = 1
AMOUNTS = (0.8, 0.5, 0.95)
"""Shares of a layer's weights that are 0, one after the other; the first one counts where the time is short."""
VALUES = (16, 4)
"""Different values of a layer's weights."""

_SAMPLE = 1 << 18  # weights that are enough to find a layer's clusters


def scanned(program: Program, root: nn.Module, calls: list[tuple[Any, Any]], deadline: float) -> dict[str, Any]:
    """What each layer's weights mean for the model's answers.

    Args:
        calls: arguments that the model was called with.
        deadline: as `time.monotonic` has it; the first amount is tried for all layers even if it is over.

    Returns:
        as JSON: `model`, `layers` (each `name`, `class`, `shape`, `parameters`, `prune` and `share`: lists of amount,
        relative error and share of equal argmax, this None where outputs are no scores), `skipped` (name and reason).

    Raises:
        WellfitError: the model cannot be called again, or gives no real numbers.
    """
    model = Model(root, ())
    weights = [weight for weight in model.weights if not weight.is_bias]
    layers = [_about(weight) for weight in weights]
    told = {"version": VERSION, "model": model.name, "layers": layers, "skipped": [list(one) for one in model.omitted]}
    with no_trace(program, root), torch.no_grad():
        begun = time.monotonic()
        before = [_answer(root, call) for call in calls]
        # All layers are seen once in about a half of the time, be it with less data.
        most = max(1, int(len(calls) * (deadline - begun) / 2 / max(1e-9, (time.monotonic() - begun) * len(weights))))
        calls, before = calls[:most], before[:most]
        told["rows"] = sum(answer.shape[0] if answer.dim() else 1 for answer in before)
        for key, amounts, make in (("prune", AMOUNTS, _pruned), ("share", VALUES, _shared)):
            for amount in amounts:
                if time.monotonic() > deadline and layers and layers[0]["prune"]:
                    return told
                for weight, layer in zip(weights, layers):
                    layer[key].append([amount, *_difference(root, calls, before, weight, make, amount)])
    return told


def _about(weight: Weight) -> dict[str, Any]:
    shape = list(weight.data.shape)
    return {"name": weight.name, "class": weight.layer, "shape": shape, "parameters": weight.data.numel(),
            "prune": [], "share": []}  # fmt: skip


def _difference(
    root: nn.Module, calls: list[tuple[Any, Any]], before: list[torch.Tensor], weight: Weight,
    make: Callable[[torch.Tensor, float], torch.Tensor], amount: float,
) -> tuple[float, float | None]:  # fmt: skip
    """Relative error and share of equal argmax of the model with something else in the place of a weight."""
    own = weight.data.clone()
    squares = total = 0.0
    same = count = 0
    try:
        weight.data.copy_(make(own, amount))
        for call, answer in zip(calls, before, strict=True):
            now = _answer(root, call)
            squares += float((now.double() - answer.double()).square().sum())
            total += float(answer.double().square().sum())
            if answer.dim() >= 2 and answer.shape[_classes(answer)] > 1:
                equal = now.argmax(_classes(answer)) == answer.argmax(_classes(answer))
                same, count = same + int(equal.sum()), count + equal.numel()
    finally:
        weight.data.copy_(own)
    error = (squares / total) ** 0.5 if total > 0 and squares < float("inf") else 1.0
    return round(error, 6), round(same / count, 6) if count else None


def _classes(answer: torch.Tensor) -> int:
    """The axis of the scores: channels of images come before their pixels."""
    return 1 if answer.dim() == 4 else -1


def _answer(root: nn.Module, call: tuple[Any, Any]) -> torch.Tensor:
    args, kwargs = mapped(call, lambda tensor: tensor.clone())
    try:
        with same_random_numbers():
            answer = next(reals_in(root(*args, **kwargs)), None)
    except Exception as error:
        raise WellfitError(f"{type(root).__name__} cannot be called again ({in_short(error)})") from None
    if answer is None:
        raise WellfitError(f"{type(root).__name__} gives no real numbers")
    return answer.detach().clone()


def _pruned(values: torch.Tensor, amount: float) -> torch.Tensor:
    """Without the smallest."""
    order = values.abs().flatten().argsort()
    made = values.flatten().clone()
    made[order[: round(amount * len(order))]] = 0
    return made.view(values.shape)


def _shared(values: torch.Tensor, count: float) -> torch.Tensor:
    """With so many different values."""
    flat = values.flatten()
    centres, _ = clusters(flat[:: max(1, len(flat) // _SAMPLE)], int(count))
    edges = (centres[1:] + centres[:-1]) / 2
    return centres[torch.bucketize(flat.double(), edges)].to(values.dtype).view(values.shape)
