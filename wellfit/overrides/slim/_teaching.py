"""The teacher's part of a loss: which of its outputs belongs to a loss, and the term that it adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from wellfit.overrides.calls import LossCall

Pair = tuple[torch.Tensor, torch.Tensor]

_CLASSES = ("cross_entropy", "nll_loss")
_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_SCORES = "binary_cross_entropy_with_logits"


_MADE: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda x: x,
    lambda x: x.log_softmax(_axis(x)),
    torch.log,
)


class Untold(Exception):
    """Why a loss stays as it is."""


def matched(call: LossCall, pairs: Sequence[Pair]) -> torch.Tensor:
    """What the teacher says in the place of a loss's prediction.

    That is the output itself, or the same part of it where the prediction is a view; else what has the same numbers as
    the only output of its shape: a cast, or for nll_loss its log_softmax or its logarithm.

    Args:
        pairs: outputs of student and teacher, of the same shapes.

    Raises:
        Untold: it cannot be said.
    """
    prediction = call.prediction
    for own, told in pairs:
        if own is prediction:
            return told
    for own, told in pairs:
        if _is_view(prediction, own) and told.stride() == own.stride():
            offset = prediction.storage_offset() - own.storage_offset() + told.storage_offset()
            return told.as_strided(prediction.size(), prediction.stride(), offset)
    alike = [(own, told) for own, told in pairs if own.shape == prediction.shape]
    if len(alike) != 1:
        raise Untold("it is given no output of the model" if not alike else "it may be one of several outputs")
    own, told = alike[0]
    for make in _MADE if call.function == "nll_loss" else _MADE[:1]:
        if torch.allclose(make(own.detach().float()), prediction.detach().float(), 1e-2, 1e-3):
            return make(told.float())
    raise Untold("it is given something that is made of the model's output in an unknown way")


def term(call: LossCall, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """What is added to a loss, before its weight; of the loss's own shape.

    Raises:
        Untold: there is no such term for this loss.
    """
    if call.function in _CLASSES:
        return temperature**2 * _divergence(call, told, temperature)
    prediction, told = call.prediction.float(), told.float()
    reduction = {"reduction": call.options.get("reduction", "mean")}
    if call.function == _SCORES:
        soft = (told / temperature).sigmoid()
        return temperature**2 * F.binary_cross_entropy_with_logits(prediction / temperature, soft, **reduction)
    if call.function in _NUMBERS:
        own: torch.Tensor = getattr(F, call.function)(prediction, told, **call.options)
        return own
    raise Untold("there is no term of a teacher for this loss")


def _divergence(call: LossCall, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) at a temperature, over the classes, reduced over the samples as the loss is."""
    axis = _axis(call.prediction)
    own = (call.prediction.float() / temperature).log_softmax(axis)
    its = (told.float() / temperature).log_softmax(axis)
    each = (its.exp() * (its - own)).sum(axis)
    counted = torch.ones_like(each)
    if not call.target.is_floating_point():
        counted = (call.target != call.options.get("ignore_index", -100)).to(each.dtype)
    each = each * counted
    reduction = call.options.get("reduction", "mean")
    if reduction == "mean":
        return torch.sum(each) / torch.sum(counted).clamp_min(1)
    return torch.sum(each) if reduction == "sum" else each


def _axis(scores: torch.Tensor) -> int:
    """Where the classes are: as torch has it, axis 1 of a batch."""
    return 1 if scores.dim() > 1 else 0


def _is_view(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    same = tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    return same and tensor.dtype == other.dtype and tensor.numel() > 0
