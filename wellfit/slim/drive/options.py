"""What `wellfit slim` was asked for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from wellfit.config import Asked
from wellfit.errors import WellfitError
from wellfit.slim.drive.methods import Method
from wellfit.slim.target import NUMBER, Target

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


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
        asked: the rules that judge what came of it.
        method: for all layers that it fits; None: prune and share.
        control: train the dense network on, too, as the slim one is.
    """

    words: list[str]
    target: Target = field(default_factory=Target)
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
    asked: Asked = field(default_factory=Asked)
    method: Method | None = None
    control: bool = False

    @property
    def repeats(self) -> int:
        """Runs beside the tries, for which time is kept back: of other seeds, and of the dense network with all."""
        return self.seeds * (1 + self.control) - 1


def method_of(text: str | None) -> Method | None:
    """The method that `--methods` asks for; None for what is searched anyway.

    Raises:
        WellfitError: it means none, or nothing would be done.
    """
    if text is None:
        return None
    method = Method.of(text, "--methods")
    if method == Method():
        raise WellfitError("--methods keep leaves all layers alone: name what is to be done")
    return None if method == Method(prunes=True, shares=True) else method


def budget_of(text: str) -> float:
    """The seconds that "90s", "10m", "1h" or "90" mean.

    Raises:
        WellfitError: it is no time above 0.
    """
    found = re.fullmatch(rf"({NUMBER})\s*(s|m|min|h)?", text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2] or ""] if found else 0.0
    if not 0 < seconds < math.inf:
        raise WellfitError(f"--budget is a time above 0 such as 90s, 10m or 1h, not {text}")
    return seconds


def time_text(seconds: float) -> str:
    """A time for people: "45 s", "3.2 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
