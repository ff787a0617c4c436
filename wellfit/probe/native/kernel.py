"""The C kernel behind the interface: hands it pointers, and turns its sums into means."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from math import sqrt
from struct import Struct

import torch

from wellfit.errors import WellfitError
from wellfit.probe.native.interface import Change, Moments, Snapshot, Summary, UnitSums, planes
from wellfit.probe.native.supported import CODES

ABI = 3
LEVELS = ("scalar", "avx2", "avx512", "neon")

_TENSOR = "QqiiddqQ"  # wf_tensor: data, n, dtype, mode, lo, hi, cap, seed
_SEEDS = 2**64 - 1
_ABSENT = (0, 0, 0, 0, 0.0, 0.0, 0, 0)
_structs: dict[int, Struct] = {}
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SEED, _REAL = ctypes.c_uint64, ctypes.c_double
_SIGNATURES = {
    "wf_summary": (_INT, [_POINTER, _LONG, _POINTER]),
    "wf_units": (_INT, [_POINTER, _INT, _LONG, _LONG, _LONG, _LONG, _SEED] + 4 * [_POINTER]),
    "wf_take": (_INT, [_POINTER, _LONG, _LONG, _POINTER, _POINTER]),
    "wf_change": (_INT, [_POINTER, _POINTER, _LONG, _LONG, _POINTER, _POINTER, _POINTER]),
    "wf_unit_age": (_LONG, [_POINTER, _LONG, _REAL, _POINTER, ctypes.c_int32]),
    "wf_moments": (_INT, [_POINTER, _POINTER, _LONG, _REAL, _POINTER]),
    "wf_level": (_INT, []),
    "wf_set_level": (_INT, [_INT]),
}


class Kernel:
    """The statistics, by the C kernel; only for tensors that `supports` accepts.

    Buffers are made for each call: hooks may run in several threads, and the kernel works without the GIL.
    """

    name = "kernel"

    def __init__(self, library: ctypes.CDLL) -> None:
        """Bind the functions of a loaded library.

        Raises:
            OSError: the library speaks another version of the interface.
        """
        if library.wf_abi() != ABI:
            raise OSError(f"the kernel has interface version {library.wf_abi()}, {ABI} is needed: install wellfit anew")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._summary, self._units = library.wf_summary, library.wf_units
        self._take, self._change = library.wf_take, library.wf_change
        self._unit_age = library.wf_unit_age
        self._moments = library.wf_moments
        self._level, self._set_level = library.wf_level, library.wf_set_level
        self._spare: list[bytearray] = []

    @property
    def level(self) -> str:
        """The instruction set in use: scalar, avx2, avx512 or neon."""
        return LEVELS[self._level()]

    def set_level(self, level: str) -> str:
        """Use an instruction set (the best one below it, if the processor lacks it); returns the one in use."""
        return LEVELS[self._set_level(LEVELS.index(level))]

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
        fields: list[float] = []
        add = fields.extend
        seed &= _SEEDS
        for tensor, mode, low, high in zip(tensors, modes, lows, highs, strict=True):
            add((tensor.data_ptr(), tensor.numel(), CODES[tensor.dtype], mode, low, high, cap, seed))
        k = len(tensors)
        out = array("d", bytes(48 * k))
        self._summary(_packed(fields, k), k, out.buffer_info()[0])
        numbers = iter(out)
        return [
            (n, s / n, sqrt(q / n), amax, low, high) if n else (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            for n, s, q, amax, low, high in zip(*6 * (numbers,), strict=True)
        ]

    def units(self, tensor: torch.Tensor, axis: int, max_rows: int, seed: int) -> UnitSums:
        """See `Statistics.units`."""
        outer, units, inner = planes(tensor, axis)
        if not tensor.is_contiguous():
            raise WellfitError("units asks for a contiguous tensor: call it on tensor.contiguous()")
        size = 8 * units
        top, absolute, total, sumsq = (array("d", bytes(size)) for _ in range(4))
        addresses = [numbers.buffer_info()[0] for numbers in (top, absolute, total, sumsq)]
        code = CODES[tensor.dtype]
        self._units(tensor.data_ptr(), code, outer, units, inner, max_rows, seed, *addresses)
        return UnitSums(top, absolute, total, sumsq, (min(outer, max_rows) if max_rows > 0 else outer) * inner)

    def take(self, tensors: Sequence[torch.Tensor], per_tensor: int, seed: int) -> Snapshot:
        """See `Statistics.take`."""
        seed &= _SEEDS
        fields, room = _describe(tensors, seed)
        k = len(tensors)
        # float64 needs the room of two floats.
        size = 4 * sum((min(n, per_tensor) if per_tensor > 0 else n) << (c == 1) for n, c in room)
        buffer = self._room(size)
        snapshot = _Pooled(self._spare, per_tensor, seed, k, buffer)
        address = snapshot.offsets.buffer_info()[0]
        self._take(_packed(fields, k), k, per_tensor, _address(buffer), address)
        return snapshot

    def change(
        self, tensors: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None], snapshot: Snapshot
    ) -> list[Change]:
        """See `Statistics.change`."""
        k = len(tensors)
        if k != snapshot.length:
            raise WellfitError(f"the snapshot has {snapshot.length} tensors, not {k}: give the same ones again")
        seed = snapshot.seed
        fields, _ = _describe(tensors, seed)
        slopes: list[float] = []
        copies: list[torch.Tensor] = []  # keeps them alive during the call
        for tensor, gradient in zip(tensors, gradients, strict=True):
            if gradient is None or gradient.layout is not torch.strided or gradient.shape != tensor.shape:
                slopes.extend(_ABSENT)
                continue
            plain = gradient.is_contiguous() and tensor.is_contiguous()
            if not plain and gradient.stride() != tensor.stride():
                gradient = _same_order(gradient, tensor)
                copies.append(gradient)
            slopes.extend((gradient.data_ptr(), gradient.numel(), CODES[gradient.dtype], 0, 0.0, 0.0, 0, seed))
        out = array("d", bytes(56 * k))
        before, offsets = _address(snapshot.buffer), snapshot.offsets.buffer_info()[0]
        now, grads = _packed(fields, k), _packed(slopes, k)
        self._change(now, grads, k, snapshot.per_tensor, before, offsets, out.buffer_info()[0])
        numbers = iter(out)
        return [
            (n, s / n, sqrt(q / n), amax, same, stuck, sqrt(w / n)) if n else (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
            for n, s, q, amax, same, stuck, w in zip(*7 * (numbers,), strict=True)
        ]

    def moments(self, sums: UnitSums) -> Moments:
        """See `Statistics.moments`."""
        out = array("d", bytes(40))
        addresses = (sums.sum.buffer_info()[0], sums.sumsq.buffer_info()[0])
        self._moments(*addresses, len(sums.sum), float(sums.n), out.buffer_info()[0])
        return Moments(*out)

    def unit_age(self, units: int, limit: int) -> KernelUnitAge:
        """See `Statistics.unit_age`."""
        return KernelUnitAge(self._unit_age, units, limit)

    def _room(self, size: int) -> bytearray:
        """A buffer of at least so many bytes: fresh pages cost more than filling them does, so old ones are kept."""
        try:
            buffer = self._spare.pop()
        except IndexError:
            return bytearray(max(size, 4))
        return buffer if len(buffer) >= size else bytearray(size)


class _Pooled(Snapshot):
    """A snapshot that gives its buffer back for the next one."""

    def __init__(self, pool: list[bytearray], per_tensor: int, seed: int, length: int, buffer: bytearray) -> None:
        self._pool = pool
        super().__init__(per_tensor, seed, length, buffer, array("q", bytes(8 * length + 8)))

    def __del__(self) -> None:
        if len(self._pool) < 2:
            self._pool.append(self.buffer)


class KernelUnitAge:
    """See `interface.UnitAge`."""

    def __init__(self, update: ctypes._NamedFuncPointer, units: int, limit: int) -> None:
        self._update, self._units, self._limit = update, units, limit
        self._age = array("i", bytes(4 * units))

    def update(self, unit_max: array[float], level: float) -> int:
        """See `interface.UnitAge`."""
        if len(unit_max) != self._units:
            raise WellfitError(f"{len(unit_max)} units were given where {self._units} are counted: make a new counter")
        ages, newest = self._age.buffer_info()[0], unit_max.buffer_info()[0]
        return int(self._update(newest, self._units, level, ages, self._limit))


def _describe(tensors: Sequence[torch.Tensor], seed: int) -> tuple[list[float], list[tuple[int, int]]]:
    """The wf_tensor of each, flat, and their (size, dtype)."""
    fields: list[float] = []
    room: list[tuple[int, int]] = []
    for tensor in tensors:
        n, code = tensor.numel(), CODES[tensor.dtype]
        fields.extend((tensor.data_ptr(), n, code, 0, 0.0, 0.0, 0, seed))
        room.append((n, code))
    return fields, room


def _packed(fields: list[float], k: int) -> bytes:
    """k wf_tensor as the bytes that C expects."""
    struct = _structs.get(k)
    if struct is None:
        struct = _structs[k] = Struct(_TENSOR * k)
    return struct.pack(*fields)


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _same_order(gradient: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A copy of the gradient whose elements lie in memory as those of the tensor do."""
    with torch.no_grad():
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=gradient.dtype, device=gradient.device)
        return copy.copy_(gradient.detach())
