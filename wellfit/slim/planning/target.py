"""What a slimming is for: the least bytes or milliseconds, or as many as are allowed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from wellfit.errors import WellfitError

_UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


@dataclass(frozen=True)
class Target:
    """What is wanted.

    Args:
        text: as the user said it.
        goal: what is made small.
        limit: bytes, milliseconds, or times smaller or faster; None for as small as can be.
        unit: of the limit.
    """

    text: str
    goal: Literal["size", "latency"]
    limit: float | None = None
    unit: Literal["bytes", "ms", "times", ""] = ""

    @classmethod
    def of(cls, text: str) -> Target:
        """A target as it is written: "size", "latency", "2ms", "3x-faster", "30kB", "4x".

        Raises:
            WellfitError: it is none.
        """
        plain = text.strip().lower() if isinstance(text, str) else ""
        if plain in ("size", "latency"):
            return cls(plain, "latency" if plain == "latency" else "size")
        faster = plain.endswith("x-faster")
        plain = plain.removesuffix("-faster") if faster else plain
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)", plain)
        number = float(found[1]) if found else 0.0
        if found and 0 < number < math.inf:
            unit = found[2]
            if unit in ("ms", "us", "s"):
                return cls(text, "latency", number * {"ms": 1, "us": 1e-3, "s": 1e3}[unit], "ms")
            if unit == "x":
                return cls(text, "latency" if faster else "size", number, "times")
            if unit in _UNITS:
                return cls(text, "size", number * _UNITS[unit], "bytes")
        raise WellfitError(
            f"the target {str(text)[:40]!r} is none: give size, latency, or a limit: 30kB, 4x (smaller), 2ms, 3x-faster"
        )

    def limit_of(self, dense_bytes: int, dense_ms: float | None = None) -> float | None:
        """The limit in bytes or milliseconds, for a dense model of so many."""
        if self.unit != "times" or not self.limit:
            return self.limit
        dense = dense_bytes if self.goal == "size" else dense_ms
        return None if dense is None else dense / self.limit
