"""A part of a run, given as shares of its steps."""

from __future__ import annotations

import math

from wellfit.errors import WellfitError


class Span:
    """From one share of a run's steps to another.

    Args:
        name: of the override, for the errors.
        start, end: shares of the steps.
        steps: of the whole run; None if nobody knows.

    Attributes:
        first, last: the steps after which it begins and ends.

    Raises:
        WellfitError: it ends before it begins, or `steps` is needed and missing.
    """

    def __init__(self, name: str, start: float, end: float, steps: int | None) -> None:
        if end < start:
            raise WellfitError(f"{name} ends at {end:g} of the run, before its start at {start:g}")
        if steps is None and end > 0:
            raise WellfitError(
                f"{name} needs steps, how many optimizer steps the run makes, as in --override {name}=...,steps:1000"
                + ("; or schedule:once" if start == 0 and name == "prune" else "")
            )
        self.first = math.ceil(start * (steps or 0))
        self.last = math.ceil(end * (steps or 0))

    @property
    def until(self) -> str:
        """ " by step 500": when it ends, if not at once."""
        return f" by step {self.last}" if self.last else ""

    def progress(self, step: int) -> float:
        """The share of it that has gone by, from 0 to 1."""
        if step >= self.last:
            return 1.0
        return max(0.0, (step - self.first) / (self.last - self.first))
