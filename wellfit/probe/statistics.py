"""Statistics of tensors, by the fused kernel where it can, by torch where it cannot."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import torch

from wellfit.probe import native

NAN = math.nan
Row = tuple[float, float, float, float, float, float, float, float]

FEWEST_ROWS = 8  # samples of a batch that statistics of units need, however large one is

_FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_NO_DISPATCH = torch.Tensor.__torch_dispatch__


class Units:
    """Sums over the units (features, channels, time steps) of one tensor, and what they come to."""

    __slots__ = ("_moments", "sums")

    def __init__(self, sums: native.UnitSums) -> None:
        self.sums = sums
        self._moments = (native.kernel or native.twin).moments(sums) if sums.n and len(sums.sum) else None

    @property
    def maximum(self) -> array[float]:
        """Signed maximum of each unit."""
        return self.sums.maximum

    def variation(self) -> float:
        """sqrt(mean over units of the variance) / rms; NaN for fewer than 2 elements a unit, 0 if all are zero."""
        moments, n = self._moments, self.sums.n
        if moments is None or n < 2:
            return NAN
        return math.sqrt(moments.variance * n / moments.square) if moments.square > 0 else 0.0

    def feature_spread(self) -> float:
        """Largest rms of a feature over the smallest that is not 0."""
        moments = self._moments
        return math.sqrt(moments.most / moments.least) if moments is not None and moments.least > 0 else NAN

    def constant_share(self) -> float:
        """Share of features that do not vary in this batch."""
        moments = self._moments
        return moments.flat / len(self.sums.sum) if moments is not None and self.sums.n >= 2 else NAN

    def profile(self, parts: int) -> Row:
        """rms in equal parts of the unit axis, first to last."""
        squares = self.sums.sumsq
        cuts = [len(squares) * i // parts for i in range(parts + 1)]
        rms = [
            math.sqrt(sum(squares[a:b]) / max(1, (b - a) * self.sums.n)) for a, b in zip(cuts, cuts[1:], strict=False)
        ]
        return tuple(rms)  # type: ignore[return-value]


class Meter:
    """Statistics of tensors that never change them, never use torch's random numbers, and never build a graph.

    Attributes:
        cap: elements looked at in one tensor; the governor may lower it.
        seed: changes with each watched step, so that subsamples differ.
    """

    def __init__(self) -> None:
        self.kernel, self.twin = native.kernel, native.twin
        self.native = self.kernel is not None
        self.cap = 65536
        self.seed = 1

    def takes(self, tensor: torch.Tensor) -> bool:
        """Whether statistics of this tensor mean something: real, floating, dense, with storage."""
        return (
            tensor.dtype in _FLOATS
            and tensor.layout is torch.strided
            and not tensor.is_meta
            and not tensor.is_quantized
            and not tensor.is_nested
            and is_plain(tensor)
        )

    def summary(
        self, tensor: torch.Tensor, mode: int, low: float, high: float
    ) -> tuple[float, float, float, float, float, float]:
        """(count, mean, rms, amax, low, high) of one tensor."""
        return self.summaries([tensor], [mode], [low], [high])[0]

    def summaries(
        self, tensors: Sequence[torch.Tensor], modes: Sequence[int], lows: Sequence[float], highs: Sequence[float]
    ) -> list[tuple[float, float, float, float, float, float]]:
        """The same of many tensors, in one call of the kernel."""
        if self.kernel is not None and all(map(native.supports, tensors)):
            return self.kernel.summaries(tensors, modes, lows, highs, self.cap, self.seed)
        if self.kernel is None or len(tensors) == 1:
            return self.twin.summaries(tensors, modes, lows, highs, self.cap, self.seed)
        return [self.summary(*given) for given in zip(tensors, modes, lows, highs, strict=True)]

    def units(self, tensor: torch.Tensor, axis: int, rows: int) -> Units | None:
        """Sums per unit; None where there is nothing to sum."""
        if tensor.numel() == 0 or tensor.dim() < 2:
            return None
        if rows:
            rows = min(rows, max(FEWEST_ROWS, self.cap * tensor.shape[0] // tensor.numel()))
        if rows and tensor.shape[0] > rows and not tensor.is_contiguous():
            tensor = tensor[:rows]
        tensor = tensor.contiguous()
        engine: Any = native.statistics(tensor)
        sums = engine.units(tensor, axis, rows, self.seed)
        return Units(sums)

    def take(self, tensors: Sequence[torch.Tensor], samples: int) -> Any:
        """Sampled elements of each tensor, to be compared after the step."""
        engine: Any = self.kernel if self.kernel is not None and all(map(native.supports, tensors)) else self.twin
        return engine, engine.take(tensors, samples, self.seed)

    def change(
        self, tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], taken: Any
    ) -> list[tuple[float, float, float, float, float, float, float]]:
        """(count, mean, rms, amax, unchanged, unchanged with gradient, rms of the weight) of what the step changed."""
        engine, snapshot = taken
        if engine is self.kernel:
            gradients = [g if g is not None and native.supports(g) else None for g in gradients]
        return engine.change(tensors, gradients, snapshot)  # type: ignore[no-any-return]

    def ages(self, units: int, limit: int) -> Any:
        """Counts for how many batches each unit has been silent."""
        engine: Any = self.kernel or self.twin
        return engine.unit_age(units, limit)


def shape_of(tensor: torch.Tensor) -> list[int] | None:
    """Its shape; None if that is not just numbers (nested tensors)."""
    if tensor.is_nested:
        return None
    return [int(length) for length in tensor.shape]


def is_real(tensor: torch.Tensor) -> bool:
    """Whether it has real numbers of its own: not on `meta`, not of a subclass that answers for itself (FakeTensor)."""
    return tensor.is_floating_point() and not tensor.is_meta and type(tensor).__torch_dispatch__ is _NO_DISPATCH


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether this is a tensor of torch's own kind, with numbers of its own."""
    kind = type(tensor)
    if not (kind is torch.Tensor or kind is torch.nn.Parameter or kind is torch.nn.parameter.Buffer):
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(
        tensor
    )  # those of torch.func hold no numbers of their own
