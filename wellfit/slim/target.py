"""What a slimming is for: as small or as fast as can be, or a limit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from wellfit.errors import WellfitError

NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_BYTES = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Args:
        kind: "size": as small as can be; "ratio": so many times smaller; "bytes": so many bytes; "latency": as fast as
            can be; "speedup": so many times as fast; "milliseconds": a call takes so long.
        amount: the ratio, the bytes, the speedup or the milliseconds; 0 for "size" and "latency".
    """

    kind: str = "size"
    amount: float = 0.0

    @classmethod
    def of(cls, text: str) -> Target:
        """A target as it is written: "size", "50x", "30kB", "latency", "2ms", "3x-faster".

        Raises:
            WellfitError: it is none of them.
        """
        word = text.strip().lower().replace(" ", "") if isinstance(text, str) else ""
        if word in ("size", "latency"):
            return cls(word)
        found = re.fullmatch(rf"({NUMBER})([a-z]+)(-?faster)?", word)
        if found and not (found[3] and found[2] != "x") and math.isfinite(amount := float(found[1])):
            unit = found[2]
            if unit == "x" and amount > 1:
                return cls("speedup" if found[3] else "ratio", amount)
            if unit in _MILLISECONDS and amount > 0:
                return cls("milliseconds", amount * _MILLISECONDS[unit])
            size = bytes_in(word)
            if size:
                return cls("bytes", float(size))
        raise WellfitError(
            "the target is size, a ratio of bytes such as 50x (above 1x), bytes such as 30kB, latency, a time such as "
            f"2ms, or a speed such as 3x-faster (above 1x), not {str(text)[:40]!r}"
        )

    @property
    def is_time(self) -> bool:
        """Whether it is about how long calls take."""
        return self.kind in ("latency", "speedup", "milliseconds")

    @property
    def goal(self) -> Literal["size", "latency"]:
        """What is made small."""
        return "latency" if self.is_time else "size"

    def bytes_of(self, dense: int) -> int:
        """The most bytes that the file may have, 0 where no number is asked for.

        Args:
            dense: bytes of the weights as they are.
        """
        return int(dense / self.amount) if self.kind == "ratio" else int(self.amount)

    def milliseconds_of(self, dense: float | None) -> float | None:
        """The longest that a call may take; None where no time is asked for.

        Args:
            dense: milliseconds of a call as it is; None if they are not known.
        """
        if self.kind == "speedup":
            return None if dense is None else dense / self.amount
        return self.amount if self.kind == "milliseconds" else None

    def __str__(self) -> str:
        shown = {"ratio": f"{self.amount:g}x", "bytes": f"{self.amount:,.0f} bytes",
                 "speedup": f"{self.amount:g}x-faster", "milliseconds": f"{self.amount:g} ms"}  # fmt: skip
        return shown.get(self.kind, self.kind)


def bytes_in(text: str) -> int:
    """Bytes as they are written: "100MB", "64MiB", "30k", "4096"; 0 if it is none of them."""
    found = re.fullmatch(rf"({NUMBER})([a-z]*)", text.strip().lower().replace(" ", ""))
    if not found:
        return 0
    unit = found[2] if found[2].endswith("b") else f"{found[2]}b"
    size = float(found[1]) * _BYTES.get(unit, 0)
    return int(size) if size < math.inf else 0
