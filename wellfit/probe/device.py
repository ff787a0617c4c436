"""Statistics of tensors on an accelerator: computed there, never waited for, read a step late.

Each question leaves a few numbers on the device. At the end of the step all of them are put into one tensor and copied
to pinned memory behind the training's own work; when the copy has arrived (an event says so, nothing waits), the rows
are emitted for the step they belong to. Parameters, gradients and updates go through torch's multi-tensor functions:
a handful of launches, however many tensors there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from wellfit.probe.statistics import NAN, Row

SAMPLES = 4096  # elements of a parameter compared before and after a step: one block at a jittered place
WAITING = 64  # steps whose numbers may be under way; older ones are given up

Emit = Callable[[int, str, str, Row], None]
Finish = Callable[[list[float]], None]


def sent(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """Begin to copy a tensor to the host.

    Returns:
        (tensor on the host, event that tells when the copy has arrived; None: it is there).
    """
    if tensor.device.type != "cuda":
        return tensor.to("cpu"), None
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(tensor.device))
    return host, event


class Device:
    """Collects questions during a step, and answers of earlier steps.

    Args:
        emit: takes (step, what, subject, row).
    """

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.on_non_finite: Callable[[str, str], None] | None = None
        self._asked: list[tuple[torch.Tensor, Finish]] = []
        self._under_way: list[tuple[torch.Tensor, Any, list[tuple[int, Finish]]]] = []
        self._taken: tuple[list[torch.Tensor], list[torch.Tensor], list[str], int] | None = None
        self._random = 1

    @property
    def busy(self) -> bool:
        """Whether anything was asked or is under way."""
        return bool(self._asked or self._under_way)

    def summary(
        self,
        step: int,
        what: str,
        subject: str,
        tensor: torch.Tensor,
        mode: int,
        low: float,
        high: float,
        units: Any = None,
    ) -> None:
        """Ask for a row of one tensor.

        Args:
            mode, low, high: as for the kernel.
            units: (axis, ages or None, limit) to ask for silent units and batch variation as well.
        """
        with torch.no_grad():
            x = tensor.detach().float()
            flat = (x if mode else x.abs()) <= low
            saturated = (x.abs() >= high).sum() if math.isfinite(high) else x.new_zeros(())
            parts = [
                x.mean(),
                torch.linalg.vector_norm(x),
                torch.linalg.vector_norm(x, math.inf),
                flat.sum(),
                saturated,
            ]
            if units is not None:
                parts += self._units(x, *units)
            answer = torch.stack([part.double() if x.device.type != "mps" else part.float() for part in parts])
        count = tensor.numel()

        def finish(numbers: list[float]) -> None:
            mean, norm, amax, low_count, high_count, *rest = numbers
            silent, variation = rest or (NAN, NAN)
            rms = norm / math.sqrt(count) if count else 0.0
            self.emit(step, what, subject, (float(count), mean, rms, amax, low_count, high_count, silent, variation))
            if not math.isfinite(amax) and self.on_non_finite is not None:
                self.on_non_finite(what, subject)

        self._asked.append((answer, finish))

    def _units(
        self, x: torch.Tensor, axis: int, ages: dict[str, torch.Tensor] | None, limit: int
    ) -> list[torch.Tensor]:
        axis %= x.dim()
        others = [d for d in range(x.dim()) if d != axis]
        variance = x.var(others, correction=0).mean()
        variation = variance.sqrt() / x.square().mean().sqrt().clamp_min(1e-38)
        if ages is None:
            return [x.new_full((), NAN), variation]
        silent = x.amax(others) <= 0
        age = ages.get("age")
        if age is None or age.shape != silent.shape or age.device != x.device:
            age = torch.zeros_like(silent, dtype=torch.int32)
        ages["age"] = age = torch.where(silent, age + 1, torch.zeros_like(age))
        return [(age >= limit).float().mean(), variation]

    def before_step(
        self, step: int, parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], names: Sequence[str]
    ) -> None:
        """Ask for parameters and gradients, and keep a block of each parameter."""
        parameters, gradients = [p.detach() for p in parameters], [g.detach() for g in gradients]
        with torch.no_grad():
            norms = [
                torch._foreach_norm(tensors, order) for tensors in (parameters, gradients) for order in (2, math.inf)
            ]
            answer = torch.stack([value.float() for group in norms for value in group])
            blocks = [self._block(p) for p in parameters]
            kept = [torch.empty_like(block) for block in blocks]
            torch._foreach_copy_(kept, blocks)
        self._taken = (blocks, kept, list(names), step)
        counts = [p.numel() for p in parameters]

        def finish(numbers: list[float]) -> None:
            k = len(counts)
            for what, norm, amax in (("parameter", 0, k), ("gradient", 2 * k, 3 * k)):
                for i, (name, count) in enumerate(zip(names, counts, strict=True)):
                    rms = numbers[norm + i] / math.sqrt(max(count, 1))
                    self.emit(step, what, name, (float(count), NAN, rms, numbers[amax + i], NAN, NAN, NAN, NAN))
                    if what == "gradient" and not math.isfinite(numbers[amax + i]) and self.on_non_finite is not None:
                        self.on_non_finite(what, name)

        self._asked.append((answer, finish))

    def _block(self, parameter: torch.Tensor) -> torch.Tensor:
        """A view of up to SAMPLES elements that follow each other, at a place that changes from step to step."""
        flat = parameter.view(-1) if parameter.is_contiguous() else parameter.flatten()
        self._random = (1664525 * self._random + 1013904223) % 2**32
        room = max(flat.numel() - SAMPLES, 0)
        start = self._random % (room + 1)
        return flat[start : start + SAMPLES]

    def after_step(self) -> None:
        """Ask what the step changed."""
        if self._taken is None:
            return
        (blocks, kept, names, step), self._taken = self._taken, None
        with torch.no_grad():
            differences = torch._foreach_sub(blocks, kept)
            groups = [torch._foreach_norm(t, o) for t, o in ((differences, 2), (differences, math.inf), (blocks, 2))]
            answer = torch.stack([value.float() for group in groups for value in group])
        counts = [block.numel() for block in blocks]

        def finish(numbers: list[float]) -> None:
            k = len(counts)
            for i, (name, count) in enumerate(zip(names, counts, strict=True)):
                root = math.sqrt(max(count, 1))
                amax = numbers[k + i]
                unchanged = float(count) if amax == 0 else 0.0
                row = (float(count), NAN, numbers[i] / root, amax, unchanged, NAN, numbers[2 * k + i] / root, NAN)
                self.emit(step, "update", name, row)

        self._asked.append((answer, finish))

    def end_step(self) -> None:
        """Send what was asked for on its way to the host."""
        if not self._asked:
            return
        asked, self._asked = self._asked, []
        by_device: dict[torch.device, list[tuple[torch.Tensor, Finish]]] = {}
        for answer, finish in asked:
            by_device.setdefault(answer.device, []).append((answer, finish))
        for entries in by_device.values():
            with torch.no_grad():
                together = torch.cat([answer.flatten().to(entries[0][0].dtype) for answer, _ in entries])
                host, arrived = sent(together)
            self._under_way.append((host, arrived, [(answer.numel(), finish) for answer, finish in entries]))
        del self._under_way[:-WAITING]

    def collect(self, wait: bool = False) -> None:
        """Emit the rows that have arrived; with `wait` (at the end of the process) those under way as well."""
        while self._under_way:
            host, arrived, parts = self._under_way[0]
            if arrived is not None and not wait and not arrived.query():
                return
            if arrived is not None and wait:
                arrived.synchronize()
            del self._under_way[0]
            numbers = host.tolist()
            at = 0
            for size, finish in parts:
                finish(numbers[at : at + size])
                at += size
