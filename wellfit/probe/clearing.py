"""Gradients that were cleared after backward, so that the optimizer steps on nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from wellfit.probe.locate import Place, location
from wellfit.probe.moment import Moment
from wellfit.probe.optimizers import Held
from wellfit.probe.patterns import Patterns


class Clearing:
    """Remembers calls of `zero_grad` since the last backward call, in steps that are looked at.

    Args:
        now, patterns: of the probe.
        count_event: writes an event that may come in every step: (name, key, fields).
    """

    def __init__(self, now: Moment, patterns: Patterns, count_event: Callable[..., None]) -> None:
        self._now = now
        self._patterns = patterns
        self._count_event = count_event
        self._by_optimizer: dict[int, Place | None] = {}
        self._last: Place | None = None

    def called(self, held: Held | None, place: Place | None) -> None:
        """`zero_grad` of an optimizer, or (None) of a module, was called at a place."""
        if held is not None and self._now.owner is not None:
            self._by_optimizer[held.id] = place
        if self._now.backward_seen:
            self._last = place

    def forget(self) -> None:
        """Backward was called, or steps are not looked at any more."""
        self._by_optimizer.clear()

    def step_ended(self) -> None:
        self._last = None

    def before_step(self, held: Held) -> None:
        """Backward ran, then something cleared the gradients, then the optimizer steps on nothing.

        Of two optimizers the second steps when the step that backward belongs to has ended.
        """
        own = held.id in self._by_optimizer
        place = self._by_optimizer.pop(held.id, None) or self._last
        now = self._now
        if not own and not (now.backward_seen and self._patterns.last_but_steps(now.pattern) == "zero_grad:module"):
            return
        if all(_is_empty(parameter.grad) for parameter in held.parameters[:4]):
            self._count_event("gradient-cleared", f"cleared {held.id}", optimizer=held.id, location=location(place))


def _is_empty(gradient: Any) -> bool:
    return gradient is None or not bool(torch.count_nonzero(gradient))
