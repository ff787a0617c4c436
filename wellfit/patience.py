"""A limit on how long a call may take, for code that is not ours: an endless loop in a rule must not hang a run."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TooSlow(Exception):
    """A call ran out of time."""


class _Interruption(BaseException):
    """Raised inside the call; no Exception, so that a loop which passes over errors ends too."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the calling thread if the block takes longer.

    It works in every thread and on every system, where signals do not; a single call into C code that never comes back
    cannot be stopped. Where the interpreter has no such function (PyPy), there is no limit.

    Raises:
        TooSlow: the block took longer than `seconds`.
    """
    interrupt = getattr(ctypes, "pythonapi", None)
    if interrupt is None:
        yield
        return
    thread = ctypes.c_ulong(threading.get_ident())
    over = threading.Lock()
    ended = False

    def late() -> None:
        with over:
            if not ended:
                interrupt.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_Interruption))

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            # An interruption that was on its way when the block ended arrives in these calls, not behind them.
            with over:
                ended = True
            timer.cancel()
    except _Interruption:
        raise TooSlow(f"no end in {seconds:g} s") from None
