"""Loss functions as they are called: what they were given, and their value when no gradient is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from wellfit.probe.answers import Answers
from wellfit.probe.labels import Labels
from wellfit.probe.locate import Place, cached_place, location
from wellfit.probe.statistics import NAN, Meter, Row, shape_of

# Functions of torch.nn.functional that are losses of (prediction, target, ...).
FUNCTIONS = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss", "gaussian_nll_loss", "soft_margin_loss",
    "multi_margin_loss", "multilabel_margin_loss", "multilabel_soft_margin_loss", "hinge_embedding_loss", "ctc_loss",
)  # fmt: skip

ROWS = 1024
DISTINCT = 4096


class Losses:
    """Follows calls of loss functions.

    Args:
        meter: computes statistics.
        emit: takes (what, subject, row).
        declare: writes a declaration.
        answers: compares targets with inputs.
    """

    def __init__(
        self,
        meter: Meter,
        emit: Callable[[str, str, Row], None],
        declare: Callable[[dict[str, Any]], None],
        answers: Answers,
    ) -> None:
        self.meter = meter
        self.emit = emit
        self.declare = declare
        self._ids: dict[tuple[str, Place | None, bool], int] = {}
        self._measured: set[int] = set()
        self._labels = Labels()
        self._answers = answers

    def begin(self) -> None:
        """A watched step begins."""
        self._measured.clear()

    def number(self, function: str, depth: int, args: Any, kwargs: Any, training: bool) -> int:
        """The id of this call of a loss; declares it when it is new."""
        place = cached_place(depth + 1)
        key = (function, place, training)
        known = self._ids.get(key)
        if known is None:
            known = self._ids[key] = len(self._ids)
            self._declare(known, function, place, args, kwargs, training)
        return known

    def _declare(self, number: int, function: str, place: Place | None, args: Any, kwargs: Any, training: bool) -> None:
        prediction, target = _given(args, kwargs)
        attributes: dict[str, Any] = {}
        for name in ("label_smoothing", "ignore_index", "beta", "delta", "log_target"):
            if isinstance(kwargs.get(name), (int, float, bool)):
                attributes[name] = kwargs[name]
        weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
        attributes["weight"] = isinstance(weight, torch.Tensor)
        attributes["pos_weight"] = isinstance(kwargs.get("pos_weight"), torch.Tensor)
        self.declare(
            {
                "type": "loss", "id": number, "function": function, "location": location(place),
                "prediction_shape": _shape(prediction), "target_shape": _shape(target),
                "prediction_dtype": _dtype(prediction), "target_dtype": _dtype(target),
                "reduction": kwargs.get("reduction", "mean"), "attributes": attributes, "training": training,
            }
        )  # fmt: skip

    def measure(self, number: int, function: str, args: Any, kwargs: Any) -> None:
        """Statistics of prediction and target, once a step and loss."""
        if number in self._measured:
            return
        self._measured.add(number)
        prediction, target = _given(args, kwargs)
        if any(isinstance(given, torch.Tensor) and not given.is_cpu for given in (prediction, target)):
            return  # their extremes could only be had by waiting for the device
        if isinstance(prediction, torch.Tensor) and self.meter.takes(prediction) and prediction.numel():
            self.emit("output", str(number), self._output(prediction.detach()))
        if (
            isinstance(target, torch.Tensor)
            and target.numel()
            and target.layout is torch.strided
            and not target.is_meta
        ):
            row = self._target(target.detach())
            if row is not None:
                self.emit("target", str(number), row)
            labels = self._labels.row(number, function, target.detach(), kwargs.get("ignore_index"))
            if labels is not None:
                self.emit("labels", str(number), labels)
            answer = self._answers.row(number, target.detach(), kwargs.get("ignore_index"))
            if answer is not None:
                self.emit("answer", str(number), answer)

    def _output(self, prediction: torch.Tensor) -> Row:
        count, mean, rms, amax, _, _ = self.meter.summary(prediction, 0, 0.0, math.inf)
        low, high = _extremes(prediction)
        shaped = prediction if prediction.dim() >= 2 else prediction.reshape(-1, 1)
        sums = self.meter.units(shaped, 1, ROWS)
        variation = sums.variation() if sums is not None and math.isfinite(amax) else NAN
        rowsum = mean * prediction.shape[1] if prediction.dim() == 2 else NAN
        return (count, mean, rms, amax, low, high, variation, rowsum)

    def _target(self, target: torch.Tensor) -> Row | None:
        if target.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
            flat = target.reshape(-1)[: 16 * DISTINCT]
            distinct = torch.unique(flat[:DISTINCT]).numel()
            values = flat.to(torch.float64)
            low, high = _extremes(flat.to(torch.int64))
            sizes = (values.mean(), values.square().mean().sqrt(), values.abs().max())
            mean, rms, amax = (float(size) for size in sizes)
            return (float(target.numel()), mean, rms, amax, low, high, float(distinct), 1.0)
        if not self.meter.takes(target):
            return None
        count, mean, rms, amax, _, _ = self.meter.summary(target, 0, 0.0, math.inf)
        low, high = _extremes(target)
        flat = target.reshape(-1)[:DISTINCT]
        return (count, mean, rms, amax, low, high, float(torch.unique(flat).numel()), 0.0)


def _given(args: Any, kwargs: Any) -> tuple[Any, Any]:
    prediction = args[0] if args else kwargs.get("input", kwargs.get("log_probs"))
    target = args[1] if len(args) > 1 else kwargs.get("target", kwargs.get("targets"))
    return prediction, target


def _extremes(tensor: torch.Tensor) -> tuple[float, float]:
    """(minimum, maximum) of up to 65536 elements."""
    low, high = torch.aminmax(tensor.reshape(-1)[:65536])
    return float(low), float(high)


def _shape(value: Any) -> list[int] | None:
    return shape_of(value) if isinstance(value, torch.Tensor) else None


def _dtype(value: Any) -> str | None:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else None
