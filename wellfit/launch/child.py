"""The user's program as a child: started as a shell would, waited for without burning time, signals passed on."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, BinaryIO

from wellfit.launch.canary import Canary

GRACE = 0.3
"""Seconds after a signal came before it is passed on: a batch system signals one process after the other."""

MERCY = 5.0
"""Seconds that a program which is to end has to clear up."""

_PASSED_ON = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT")


class Child:
    """A running program that shares our terminal, streams, folder and process group.

    Args:
        argv: the program and its arguments.
        env: its environment.
        output: a file for all that it writes, where that is not for the terminal; it is given no input then.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], output: BinaryIO | None = None) -> None:
        # Open files of ours are not inherited anyway, those of our caller are: as without us.
        streams: dict[str, Any] = {}
        if output is not None:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(argv, env=dict(env), close_fds=False, **streams)
        self._canary = Canary()
        self._to_pass: list[tuple[float, int]] = []

    @property
    def status(self) -> int | None:
        """None while it runs; then its exit code, or -n if signal n killed it."""
        return self._process.returncode

    def wait(self, seconds: float, wake: int) -> bool:
        """Wait until the child has ended or the time is over; True if it has ended.

        Args:
            seconds: at most so long.
            wake: a file that becomes readable when a signal arrives (`listening`).
        """
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            now = time.monotonic()
            self._pass_on(now)
            left = min([end - now, *(due - now for due, _ in self._to_pass)])
            if end <= now:
                return False
            ready, _, _ = select.select([wake], [], [], max(0.0, left))
            if ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
        self._canary.close()
        return True

    def stop(self) -> None:
        """End it from our side: ask first, and insist some seconds later."""
        self._process.terminate()
        try:
            self._process.wait(MERCY)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._canary.close()

    def signalled(self, number: int) -> None:
        """Note a signal that came to us; after the grace it is passed on if it was for us alone."""
        self._to_pass.append((time.monotonic() + GRACE, number))

    def _pass_on(self, now: float) -> None:
        due = [number for when, number in self._to_pass if when <= now]
        if not due:
            return
        if self._canary.heard([number for _, number in self._to_pass]):
            self._to_pass.clear()
            return
        self._to_pass = [entry for entry in self._to_pass if entry[0] > now]
        for number in due:
            self._process.send_signal(number)


class Signals:
    """Our own handlers: none of them ends us, the child decides.

    Attributes:
        came: the signals that came while a child ran, or before the first.
    """

    def __init__(self) -> None:
        self.child: Child | None = None
        self.came: list[int] = []
        self._early: list[int] = []

    def arrived(self, number: int, frame: FrameType | None) -> None:
        """A signal for us, and perhaps for the child as well."""
        if number == signal.SIGCHLD:
            return
        if self.child is not None and self.child.status is not None:
            raise KeyboardInterrupt
        self.came.append(number)
        if self.child is None:
            self._early.append(number)
        else:
            self.child.signalled(number)

    def follow(self, child: Child) -> None:
        """From now on signals go to this child; those that came before it was there too."""
        self.child = child
        for number in self._early:
            child.signalled(number)


@contextlib.contextmanager
def listening() -> Iterator[tuple[Signals, int]]:
    """Replace our signal handlers for a while.

    Signals that our caller ignores (`nohup`, `&` of a script) stay ignored, in the child too.

    Returns:
        the receiver and a file that becomes readable when a signal arrives.
    """
    signals = Signals()
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    before: dict[int, object] = {}
    old_wake = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        for name in ("SIGCHLD", "SIGINT", *_PASSED_ON):
            number = getattr(signal, name)
            # SIGCHLD even if it is ignored: the system would reap the child then and lose its exit code.
            if number == signal.SIGCHLD or signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, signals.arrived)
        yield signals, read
    finally:
        signal.set_wakeup_fd(old_wake)
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(read)
        os.close(write)


def end_like(status: int) -> int:
    """End as the child did: kill ourselves by the same signal, so that a shell sees the same.

    Args:
        status: of `Child.status`.

    Returns:
        the exit code to use, if we are still alive: 128 + n where signal n does not kill us.
    """
    if status >= 0:
        return status
    number = -status
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        # The child's core, if any, is the one to look at.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    return 128 + number
