"""The order of zero_grad, backward and step within a step: mostly the same one, written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BACKWARD = 0
EVENTS = 200  # a longer pattern is cut off
KINDS = 1000  # a loop with more different patterns than this has no pattern


class Patterns:
    """Gives each order of events a number.

    Args:
        declare: writes a declaration.
    """

    def __init__(self, declare: Callable[[dict[str, Any]], None]) -> None:
        self.declare = declare
        self._names = ["backward"]
        self._numbers: dict[tuple[int, ...], int] = {}
        # The pattern of the step before and its number: mostly this step's as well.
        self.last: list[int] | None = None
        self.last_number = 0

    def code(self, name: str) -> int:
        """The code of an event such as `step:0`."""
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def number(self, pattern: list[int]) -> int:
        """The id of a pattern; declared when it is new."""
        if pattern == self.last:
            return self.last_number
        key = tuple(pattern[:EVENTS])
        number = self._numbers.get(key)
        if number is None:
            number = len(self._numbers)
            if number < KINDS:
                self._numbers[key] = number
                self.declare({"type": "pattern", "id": number, "events": [self._names[code] for code in key]})
        self.last, self.last_number = pattern.copy(), number
        return number

    def last_but_steps(self, pattern: list[int]) -> str:
        """The name of the last event that is not an optimizer's step."""
        names = (self._names[code] for code in reversed(pattern))
        return next((name for name in names if not name.startswith("step")), "")
