"""What the C kernel and its torch twin have in common: the questions they answer, and the shape of the answers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, Protocol

import torch

from wellfit.errors import WellfitError

ABSOLUTE = 0
"""Mode of a summary: an element is low if its absolute value is."""

SIGNED = 1
"""Mode of a summary of what goes into a ReLU: an element is low if its signed value is."""

Summary = tuple[float, float, float, float, float, float]
"""count, mean, rms, amax, low (number), high (number)."""

Change = tuple[float, float, float, float, float, float, float]
"""count, mean, rms, amax of the difference; number unchanged; unchanged with gradient; rms of the weight now."""


@dataclass
class UnitSums:
    """Per unit, over everything but the unit axis: `array("d")` of length units.

    Args:
        maximum: signed maximum.
        absolute: absolute maximum.
        sum: sum.
        sumsq: sum of squares.
        n: elements looked at in each unit; if it is 0 the four others are 0 as well.

    NaN in a unit makes all four NaN for this unit.
    """

    maximum: array[float]
    absolute: array[float]
    sum: array[float]
    sumsq: array[float]
    n: int


class Moments(NamedTuple):
    """What the sums of all units come to.

    Args:
        variance: sum over units of the variance within each.
        square: sum over units of their sums of squares.
        flat: number of units that do not vary.
        least, most: smallest and largest sum of squares of the units that are not all 0; 0 if there are none.
    """

    variance: float
    square: float
    flat: float
    least: float
    most: float


@dataclass
class Snapshot:
    """Sampled elements of some tensors, to be compared with what the same tensors hold later. Opaque to its owner."""

    per_tensor: int
    seed: int
    length: int
    buffer: bytearray = field(default_factory=bytearray, repr=False)
    offsets: array[int] = field(default_factory=lambda: array("q"), repr=False)
    values: list[torch.Tensor] = field(default_factory=list, repr=False)


class UnitAge(Protocol):
    """For how many updates in a row each unit has stayed at or below a level."""

    def update(self, unit_max: array[float], level: float) -> int:
        """Take the newest maximum of each unit (NaN counts as silent); returns how many units are dead by now."""


class Statistics(Protocol):
    """The questions. Lists are as long as `tensors`; answers come in the same order.

    Large tensors are sampled: in pseudo-random ("jittered") places that only depend on the seed and the tensor's size,
    never evenly spaced. NaN and infinity show in every mean, rms and amax that they belong to. Tensors are only read:
    no random numbers are used, no autograd graph is built.
    """

    name: str

    def summaries(
        self,
        tensors: Sequence[torch.Tensor],
        modes: Sequence[int],
        lows: Sequence[float],
        highs: Sequence[float],
        cap: int,
        seed: int,
    ) -> list[Summary]:
        """One Summary per tensor, all 0 for an empty one.

        Args:
            tensors: what to look at.
            modes: `ABSOLUTE` or `SIGNED`.
            lows: elements are low if |x| <= it (SIGNED: x <= it); NaN: never.
            highs: elements are high if |x| >= it; infinity or NaN: never.
            cap: look at about so many elements of each tensor at most; 0: at all.
            seed: chooses the sample, 0 <= seed < 2**64.
        """

    def units(self, tensor: torch.Tensor, axis: int, max_rows: int, seed: int) -> UnitSums:
        """Sums for each index of `axis`; the tensor must be contiguous.

        Args:
            tensor: at least one dimension.
            axis: the unit axis, negative ones count from the end.
            max_rows: look at so many of the rows before the unit axis at most; 0: at all.
            seed: chooses the rows.

        Raises:
            WellfitError: there is no such axis.
        """

    def moments(self, sums: UnitSums) -> Moments:
        """What the sums come to; `sums.n` must be above 0."""

    def take(self, tensors: Sequence[torch.Tensor], per_tensor: int, seed: int) -> Snapshot:
        """Copy about `per_tensor` elements of each tensor (all, if it has no more)."""

    def change(
        self, tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], snapshot: Snapshot
    ) -> list[Change]:
        """What became of the elements of a snapshot; all 0 for a tensor that has another size now.

        Args:
            tensors: the tensors of the snapshot, in the same order.
            gradients: of each tensor; None, a sparse one, or one of another shape counts as no gradient.
            snapshot: of `take`, by the same implementation.

        Raises:
            WellfitError: these are not as many tensors as the snapshot has.
        """

    def unit_age(self, units: int, limit: int) -> UnitAge:
        """A counter for so many units, which are dead once they were silent for `limit` updates in a row."""


def planes(tensor: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """A tensor's shape as (outer, units, inner) around its unit axis.

    Raises:
        WellfitError: there is no such axis.
    """
    shape = tuple(tensor.shape)
    if not -len(shape) <= axis < len(shape):
        raise WellfitError(f"a tensor of shape {shape} has no axis {axis}: give one of its {len(shape)} axes")
    axis %= len(shape)
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
