"""The same statistics in plain torch: where there is no kernel, and for tensors that it cannot read.

Works on any dense tensor of any device. Looks at the same elements as the kernel does, because it draws the same
pseudo-random numbers; torch's own random numbers are never touched.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isinf, sqrt

import torch

from wellfit.errors import WellfitError
from wellfit.probe.native.interface import SIGNED, Change, Moments, Snapshot, Summary, UnitSums, planes
from wellfit.probe.native.supported import dense

_BLOCK, _RUN = 256, 16  # as in kernel.c


class Twin:
    """The statistics, by torch; each call reads the device once."""

    name = "twin"

    @torch.no_grad()
    def summaries(
        self,
        tensors: Sequence[torch.Tensor],
        modes: Sequence[int],
        lows: Sequence[float],
        highs: Sequence[float],
        cap: int,
        seed: int,
    ) -> list[Summary]:
        """See `Statistics.summaries`."""
        counts, rows = [], []
        for tensor, mode, low, high in zip(tensors, modes, lows, highs, strict=True):
            x = _wide(_sampled(tensor, cap, _BLOCK, seed))
            size = x.abs()
            amax = size.amax() if x.numel() else x.sum()
            few = ((x if mode == SIGNED else size) <= low).sum()
            many = few * 0 if isinf(high) else (size >= high).sum()
            counts.append(float(x.numel()))
            rows.append(torch.stack([x.sum(), (x * x).sum(), amax, few.to(x.dtype), many.to(x.dtype)]))
        return [
            (n, s / n, sqrt(q / n), amax, few, many) if n else (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            for n, (s, q, amax, few, many) in zip(counts, _read(rows), strict=True)
        ]

    @torch.no_grad()
    def units(self, tensor: torch.Tensor, axis: int, max_rows: int, seed: int) -> UnitSums:
        """See `Statistics.units`; this one takes tensors that are not contiguous, too."""
        outer, units, inner = planes(tensor, axis)
        x = tensor.detach().reshape(outer, units, inner)
        if outer > max_rows > 0:
            x = x.index_select(0, _positions(outer, max_rows, 1, seed, x.device))
        x = _wide(x)
        n = x.shape[0] * x.shape[2]
        rows = [[0.0] * units] * 4
        if n and units:
            rows = torch.stack([x.amax((0, 2)), x.abs().amax((0, 2)), x.sum((0, 2)), (x * x).sum((0, 2))]).tolist()
        top, absolute, total, sumsq = (array("d", row) for row in rows)
        return UnitSums(top, absolute, total, sumsq, n)

    @torch.no_grad()
    def take(self, tensors: Sequence[torch.Tensor], per_tensor: int, seed: int) -> Snapshot:
        """See `Statistics.take`."""
        values = [_sampled(tensor, per_tensor, _RUN, seed).clone() for tensor in tensors]
        return Snapshot(per_tensor, seed, len(tensors), values=values)

    @torch.no_grad()
    def change(
        self, tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], snapshot: Snapshot
    ) -> list[Change]:
        """See `Statistics.change`."""
        if len(tensors) != snapshot.length:
            raise WellfitError(
                f"the snapshot has {snapshot.length} tensors, not {len(tensors)}: give the same ones again"
            )
        counts, rows = [], []
        for tensor, gradient, before in zip(tensors, gradients, snapshot.values, strict=True):
            now, old = _wide(_sampled(tensor, snapshot.per_tensor, _RUN, snapshot.seed)), _wide(before)
            if now.shape != old.shape:
                now = old = now[:0]
            difference, same = now - old, now == old
            amax = difference.abs().amax() if now.numel() else now.sum()
            stuck = torch.zeros_like(same)
            comparable = gradient is not None and gradient.layout is torch.strided and gradient.shape == tensor.shape
            if gradient is not None and comparable and now.numel():
                slope = _sampled(_ordered(gradient, tensor), snapshot.per_tensor, _RUN, snapshot.seed)
                stuck = same & (slope != 0)
            sums = [difference.sum(), (difference * difference).sum(), amax, same.sum(), stuck.sum(), (now * now).sum()]
            counts.append(float(now.numel()))
            rows.append(torch.stack([number.to(now.dtype) for number in sums]))
        return [
            (n, s / n, sqrt(q / n), amax, same_, stuck_, sqrt(w / n)) if n else (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            for n, (s, q, amax, same_, stuck_, w) in zip(counts, _read(rows), strict=True)
        ]

    def moments(self, sums: UnitSums) -> Moments:
        """See `Statistics.moments`."""
        n = sums.n
        pairs = [(q / n, q / n - (s / n) ** 2) for s, q in zip(sums.sum, sums.sumsq, strict=True)]
        positive = [q for q in sums.sumsq if q > 0]
        return Moments(
            variance=sum(0.0 if v <= 0 else v for _, v in pairs),
            square=sum(sums.sumsq),
            flat=float(sum(v <= 1e-12 * max(q, 1e-300) for q, v in pairs)),
            least=min(positive, default=0.0),
            most=max(positive, default=0.0),
        )

    def unit_age(self, units: int, limit: int) -> TwinUnitAge:
        """See `Statistics.unit_age`."""
        return TwinUnitAge(units, limit)


class TwinUnitAge:
    """See `interface.UnitAge`."""

    def __init__(self, units: int, limit: int) -> None:
        self._age, self._limit = [0] * units, limit

    def update(self, unit_max: array[float], level: float) -> int:
        """See `interface.UnitAge`."""
        if len(unit_max) != len(self._age):
            raise WellfitError(
                f"{len(unit_max)} units were given where {len(self._age)} are counted: make a new counter"
            )
        self._age = [0 if top > level else age + 1 for top, age in zip(unit_max, self._age, strict=True)]
        return sum(age >= self._limit for age in self._age)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """All elements in one dimension: in the order of memory if they fill it without gaps, else in that of C."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.is_contiguous() or not dense(tensor):
        return tensor.reshape(-1)
    return tensor.as_strided((tensor.numel(),), (1,))


def _ordered(gradient: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The gradient with its elements in memory as those of the tensor are, where those fill it without gaps."""
    if gradient.stride() == tensor.stride() or not dense(tensor):
        return gradient
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=gradient.dtype, device=gradient.device)
    return copy.copy_(gradient)


def _wide(x: torch.Tensor) -> torch.Tensor:
    """As float64, so that squares stay in range; Apple's GPUs have none, there it is float32."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def _sampled(tensor: torch.Tensor, limit: int, run: int, seed: int) -> torch.Tensor:
    """At most about `limit` elements of a tensor, in jittered runs; all of them, as a view, where there are no more."""
    x = _flat(tensor)
    if limit <= 0 or x.numel() <= limit:
        return x
    block = min(run, limit)
    return x.index_select(0, _positions(x.numel(), limit // block, block, seed, x.device))


def _positions(n: int, parts: int, block: int, seed: int, device: torch.device) -> torch.Tensor:
    """Indices of `block` neighbours in each of `parts` equal strata of n, as the function stratum in kernel.c."""
    i = torch.arange(parts, device=device)
    each, more = divmod(n, parts)
    begin = i * each + i.clamp(max=more)
    length = each + (i < more).long()
    random = _mixed(seed, i)
    if each < 2**32 - 1:
        offset = (_shifted(random, 33) * length) >> 31
    else:
        offset = _shifted(random, 1) % length
    steps = torch.arange(block, device=device)
    return (begin[:, None] + (offset[:, None] + steps) % length[:, None]).reshape(-1)


def _mixed(seed: int, index: torch.Tensor) -> torch.Tensor:
    """splitmix64 of seed and index; int64 wraps around as C's uint64 does."""
    z = _signed(seed) + (index + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    """A shift to the right that brings in zeros."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 with the bits of this uint64."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


def _read(rows: list[torch.Tensor]) -> list[list[float]]:
    """Bring rows of numbers to the host, in one go for each device."""
    found: dict[int, list[float]] = {}
    for device in {row.device for row in rows}:
        places = [i for i, row in enumerate(rows) if row.device == device]
        found.update(zip(places, torch.stack([rows[i] for i in places]).tolist(), strict=True))
    return [found[i] for i in range(len(rows))]
