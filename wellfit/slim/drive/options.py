"""What `wellfit slim` was asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from wellfit.errors import WellfitError

_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


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

    def bytes_of(self, dense: int) -> int:
        """The most bytes that the file may have, 0 where no number is asked for.

        Args:
            dense: bytes of the weights as they are.
        """
        return int(dense / self.amount) if self.kind == "ratio" else int(self.amount)

    @property
    def is_time(self) -> bool:
        """Whether it is about how long calls take."""
        return self.kind in ("latency", "speedup", "milliseconds")

    def __str__(self) -> str:
        shown = {"ratio": f"{self.amount:g}x", "bytes": f"{self.amount:,.0f} bytes",
                 "speedup": f"{self.amount:g}x-faster", "milliseconds": f"{self.amount:g} ms"}  # fmt: skip
        return shown.get(self.kind, self.kind)


@dataclass(frozen=True)
class SlimOptions:
    """As typed.

    Args:
        words: the command.
        target: what is to be reached.
        keep_accuracy: points that may be lost.
        budget: seconds for everything.
        to: the file to write; None: named after the script.
        start: a checkpoint to begin with, in place of a run of the script as it is.
        metric: what the figure stands behind in what the script prints.
        seeds: runs of the chosen setting.
        plan: a plan to run.
        only_plan: where to write the plan, and to do nothing else.
        overrides: of all runs.
        quiet: say nothing on standard error.
        typed: all words after `wellfit slim`, for the report.
        batch: samples in a call, by which targets of time are meant.
    """

    words: list[str]
    target: Target = Target()
    keep_accuracy: float = 1.0
    budget: float = 600.0
    to: Path | None = None
    start: Path | None = None
    metric: str | None = None
    seeds: int = 1
    plan: Path | None = None
    only_plan: Path | None = None
    overrides: tuple[str, ...] = ()
    quiet: bool = False
    typed: tuple[str, ...] = ()
    batch: int = 1


def target_of(text: str) -> Target:
    """What `--target` means.

    Raises:
        WellfitError: it is none of them.
    """
    word = text.strip().lower().replace(" ", "")
    if word == "size":
        return Target()
    ratio = re.fullmatch(rf"({_NUMBER})x", word)
    if ratio and float(ratio[1]) > 1:
        return Target("ratio", float(ratio[1]))
    size = re.fullmatch(rf"({_NUMBER})(k|m|g|[kmg]?i?b)", word)
    unit = size[2] if size and size[2].endswith("b") else f"{size[2]}b" if size else ""
    if size and unit in _UNITS and float(size[1]) * _UNITS[unit] >= 1:
        return Target("bytes", float(int(float(size[1]) * _UNITS[unit])))
    if word == "latency":
        return Target("latency")
    faster = re.fullmatch(rf"({_NUMBER})x-?faster", word)
    if faster and float(faster[1]) > 1:
        return Target("speedup", float(faster[1]))
    span = re.fullmatch(rf"({_NUMBER})(us|ms|s)", word)
    if span and float(span[1]) > 0:
        return Target("milliseconds", float(span[1]) * _MILLISECONDS[span[2]])
    raise WellfitError(
        "--target is size, a ratio of bytes such as 50x (above 1x), bytes such as 30kB, latency, a time such as 2ms, "
        f"or a speed such as 3x-faster (above 1x), not {text}"
    )


def budget_of(text: str) -> float:
    """The seconds that "90s", "10m", "1h" or "90" mean.

    Raises:
        WellfitError: it is no time above 0.
    """
    found = re.fullmatch(rf"({_NUMBER})\s*(s|m|min|h)?", text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2] or ""] if found else 0.0
    if not 0 < seconds < math.inf:
        raise WellfitError(f"--budget is a time above 0 such as 90s, 10m or 1h, not {text}")
    return seconds


def time_text(seconds: float) -> str:
    """A time for people: "45 s", "3.2 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
