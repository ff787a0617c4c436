"""The fence around everything of ours that runs in the user's process."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


function_modes = torch._C._len_torch_function_stack
dispatch_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._get_tracing_state
_transforms = torch._C._functorch.peek_interpreter_stack


def observed() -> bool:
    """Whether a mode (of the user's, or our trace) would see the torch calls that are made now."""
    return bool(function_modes() or dispatch_modes())


def transforming() -> bool:
    """Whether torch runs the program to look at it, not to compute: torch.jit.trace, torch.func."""
    return _tracing() is not None or _transforms() is not None


def out_of_sight(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, but no torch function mode, dispatch mode or tensor subclass sees the torch calls it makes."""

    @functools.wraps(function)
    def hidden(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
            return function(*args, **kwargs)

    return hidden


class Fence:
    """One switch for the whole probe: the first error of ours turns it off for good, and says so once.

    Args:
        detach: puts everything back that the probe changed in torch.
    """

    def __init__(self) -> None:
        self.off = False
        self.detach: Callable[[], None] | None = None
        self.report: Callable[[str], None] | None = None

    def fault(self, error: Exception) -> None:
        """Switch the probe off because of an error of its own."""
        if self.off:
            return
        self.off = True
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        try:
            if self.report is not None:
                self.report(said)
        except Exception:  # nothing of ours may reach the user's program
            self.report = None
        self._put_back()
        say(f"the probe failed ({said}) and switched itself off; the script goes on unwatched")

    def _put_back(self) -> None:
        try:
            if self.detach is not None:
                self.detach()
        except Exception:  # nothing of ours may reach the user's program; it goes on with what could not be put back
            self.detach = None

    def guard(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """`function`, but its errors end in `fault`, it does nothing once the probe is off or
        while the program is only looked at, and no mode sees it."""
        hidden = out_of_sight(function)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            if self.off or transforming():
                return None
            try:
                return hidden(*args, **kwargs) if observed() else function(*args, **kwargs)
            except Exception as error:
                self.fault(error)
                return None

        return guarded


def say(sentence: str) -> None:
    """One line on the process's standard error, past whatever the script made of sys.stderr."""
    try:
        os.write(2, f"wellfit: {sentence}\n".encode(errors="replace"))
    except OSError:
        sys.exc_info()
