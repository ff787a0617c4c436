"""A bar on the terminal for the run that goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

from wellfit.launch.voice import Voice
from wellfit.record import open_run
from wellfit.record.run import Run
from wellfit.slim.drive.options import time_text

_WIDTH = 24


class Progress:
    """The bar of one run; draws nothing where nobody looks.

    Args:
        voice: where to draw.
        folder: the run's.
        steps: that the run will make; None if nobody knows.
        wanted: whether to draw.
    """

    def __init__(self, voice: Voice, folder: Path, steps: int | None, wanted: bool) -> None:
        self._voice = voice
        self._folder = folder
        self._steps = steps
        self._begun = time.monotonic()
        self._run: Run | None = None
        self._drawn = False
        self._wanted = wanted and _is_terminal()

    def look(self) -> None:
        """Draw it as it is now. Never raises an Exception."""
        if not self._wanted:
            return
        try:
            self._run = self._run or open_run(self._folder)
            self._run.refresh()
            made = max((record.step_count for record in self._run.records), default=0)
        except Exception:
            return  # the run goes on, seen or not
        self._voice.tell(f"\r\x1b[K{bar(made, self._steps, time.monotonic() - self._begun)}")
        self._drawn = True

    def clear(self) -> None:
        """Leave the line empty."""
        if self._drawn:
            self._voice.tell("\r\x1b[K")
            self._drawn = False


def bar(made: int, steps: int | None, seconds: float) -> str:
    """One line: how far a run is, and how long it may still take."""
    if not steps or not made:
        return f"  {made} step{'' if made == 1 else 's'}, {time_text(seconds)}" if made else f"  {time_text(seconds)}"
    share = min(1.0, made / steps)
    left = seconds * (1 - share) / share
    filled = round(share * _WIDTH)
    return f"  [{'#' * filled}{'.' * (_WIDTH - filled)}] {made} of {steps} steps, {time_text(left)} left"


def _is_terminal() -> bool:
    try:
        return os.isatty(2) and os.environ.get("TERM") != "dumb"
    except OSError:
        return False
