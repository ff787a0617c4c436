"""Whether a signal was sent to us alone or to our whole process group."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Collection

ANSWER_SECONDS = 1.0


class Canary:
    """A small process beside us in the group that every signal ends, and nobody signals for itself.

    No system call tells the receiver of a signal whether others got it too: Ctrl-C and a batch system's end of the job
    reach the program without us, `kill PID` does not. A program that gets such a signal twice is hurt: it may be
    writing its last checkpoint. `cat` is in every POSIX system, starts in a millisecond and ends with us, as its input
    does then.
    """

    def __init__(self) -> None:
        self._process = _cat()

    def heard(self, numbers: Collection[int]) -> bool:
        """Whether the group got one of these signals since the last call that said so.

        False too where there is no telling, as without `cat`.
        """
        if self._process is None or self._answers(self._process):
            return False
        heard = -self._process.wait() in numbers
        self.close()
        self._process = _cat()
        return heard

    def close(self) -> None:
        """End it."""
        if self._process is None:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()
        self._process = None

    @staticmethod
    def _answers(process: subprocess.Popen[bytes]) -> bool:
        """Whether it still sends back what it gets: a signal that is on its way ends it first."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(b"?")
        except OSError:
            return False
        ready, _, _ = select.select([process.stdout], [], [], ANSWER_SECONDS)
        return not ready or bool(process.stdout.read(1))


def _cat() -> subprocess.Popen[bytes] | None:
    try:
        process = subprocess.Popen(
            ["cat"], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import resource

        resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))  # the program's core, if any, is the one to look at
    return process
