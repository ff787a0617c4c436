"""Speaking on standard error without ever blocking or breaking: the run matters, our words do not."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time

_PIECE = 512  # bytes: POSIX promises that a pipe which polls as writable takes so many without blocking
_PATIENCE = 1.0  # seconds in all that a reader who does not read is waited for


class Voice:
    """Text for the user, on the standard error that we share with the program.

    Args:
        file: descriptor to write to.
    """

    def __init__(self, file: int = 2) -> None:
        self._file = file
        self._patience = _PATIENCE
        self._dumb = False
        try:
            terminal = os.isatty(file)
        except OSError:
            terminal = False
        wanted = bool(os.environ.get("FORCE_COLOR")) or (terminal and os.environ.get("TERM") != "dumb")
        self.color = wanted and not os.environ.get("NO_COLOR")
        self.width = min(shutil.get_terminal_size((100, 24)).columns if terminal else 100, 120)
        self._encoding = getattr(sys.stderr, "encoding", None) or "utf-8"

    def say(self, sentence: str) -> None:
        """One line of ours."""
        self.tell(f"wellfit: {sentence}\n")

    def tell(self, text: str) -> None:
        """Text as it is; what nobody reads or can take is dropped, and so is all that follows."""
        data = text.encode(self._encoding, "replace")
        try:
            for start in range(0, len(data), _PIECE):
                if self._dumb or not self._ready():
                    return
                os.write(self._file, data[start : start + _PIECE])
        except (OSError, ValueError):  # closed, or the reader is gone
            self._dumb = True

    def _ready(self) -> bool:
        """Whether a piece can be written now; waits while there is patience left."""
        begun = time.monotonic()
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        ready = bool(poll.poll(max(0.0, self._patience) * 1000))
        self._patience -= time.monotonic() - begun
        return ready
