"""Putting a function of ours in the place of one of torch's, and taking it away again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from wellfit.probe.tracebacks import UNCOUNTED

_MISSING = object()


class Patches:
    """What was changed, so that it can be undone in reverse order."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], None]] = []

    def patch(self, holder: Any, name: str, make: Callable[[Any], Any]) -> Any:
        """Put `make(original)` in the place of `holder.name`; returns it."""
        original = getattr(holder, name)
        own = vars(holder).get(name, _MISSING)
        wrapper = make(original)
        # A warning that torch raises for its caller must name the user's line as ever, so our frame must not count.
        wrapper.__code__ = wrapper.__code__.replace(co_filename=UNCOUNTED)
        functools.update_wrapper(wrapper, original)
        setattr(holder, name, wrapper)

        def undo() -> None:
            if vars(holder).get(name) is wrapper:  # someone else may have patched over ours: leave theirs
                if own is _MISSING:
                    delattr(holder, name)
                else:
                    setattr(holder, name, own)

        self.undo.append(undo)
        return wrapper

    def undo_all(self) -> None:
        """Put everything back."""
        while self.undo:
            self.undo.pop()()
