"""An uncaught exception of the user's is printed as it would have been without us: our frames are taken out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from wellfit.probe.locate import OURS

# The warnings module leaves out frames of a file of such a name when it counts up to the caller (its own words: "frames
# that are internal to the import system"), in all supported versions of Python.
UNCOUNTED = "<frozen importlib._bootstrap> of wellfit"


def without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """The same traceback less the frames of this folder."""
    kept = None
    links = []
    while trace is not None:
        links.append(trace)
        trace = trace.tb_next
    for link in reversed(links):
        file = link.tb_frame.f_code.co_filename
        if file != UNCOUNTED and not file.startswith(OURS):
            link.tb_next = kept
            kept = link
    return kept


def _clean(error: BaseException | None, seen: set[int]) -> None:
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = without_our_frames(error.__traceback__)
        _clean(error.__context__, seen)
        error = error.__cause__


def hide_our_frames(also: Callable[[Any, Any, Any], None]) -> None:
    """Put a filter before `sys.excepthook`.

    Args:
        also: is told of each uncaught exception.
    """
    following = sys.excepthook

    def excepthook(kind: Any, value: BaseException, trace: TracebackType | None) -> None:
        try:
            also(kind, value, trace)
            _clean(value, set())
            trace = without_our_frames(trace)
        finally:
            following(kind, value, trace)

    sys.excepthook = excepthook
