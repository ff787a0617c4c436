"""An uncaught exception of the user's is printed as it would have been without us: our frames are taken out."""

from __future__ import annotations

import dis
import re
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch

from wellfit.probe.locate import is_ours

# The warnings module leaves out frames of a file of such a name when it counts up to the caller (its own words: "frames
# that are internal to the import system"), in all supported versions of Python.
UNCOUNTED = "<frozen importlib._bootstrap> of wellfit"


_NAN = re.compile(r"\bnans?\b|\binfinity\b|\bnon-?finite\b|\bnot finite\b|invalid values", re.IGNORECASE)
FRAMES = 50  # of an exception that are looked at: one that came of endless recursion has thousands

_call = torch.nn.Module._call_impl.__code__
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    """The same traceback less the frames of this folder, and less the ways round that torch takes because of us."""
    links: list[TracebackType] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == UNCOUNTED or is_ours(code.co_filename):
            if code.co_name == "__torch_function__":
                _forget_detour(links)
        elif code.co_name == "inner" and links and _went_round(links[-1]) and code.co_filename == _call.co_filename:
            links[-1] = _straight(links[-1])
        else:
            links.append(trace)
        trace = trace.tb_next
    kept = None
    for link in reversed(links):
        link.tb_next = kept
        kept = link
    return kept


def _forget_detour(links: list[TracebackType]) -> None:
    """A torch function in Python goes through `handle_torch_function` to a mode, and is then called again."""
    if len(links) >= 2 and links[-1].tb_frame.f_code.co_name == "handle_torch_function":
        del links[-2:]


def _went_round(link: TracebackType) -> bool:
    """Whether a module that has no hooks of its own was called through `inner`, as all are while ours are there."""
    if link.tb_frame.f_code is not _call:
        return False
    own = vars(link.tb_frame.f_locals.get("self"))
    return not any(own.get(name) for name in _HOOKS)


def _straight(link: TracebackType) -> TracebackType:
    """The link as it would be had the module's forward been called at once."""
    line = _call.co_firstlineno
    for step in dis.get_instructions(_call):
        positions = getattr(step, "positions", None)
        line = (positions.lineno if positions else step.starts_line) or line
        if step.opname == "CALL_FUNCTION_EX":
            return TracebackType(None, link.tb_frame, step.offset, line)
    return link


def _clean(error: BaseException | None, seen: set[int]) -> None:
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = without_our_frames(error.__traceback__)
        _clean(error.__context__, seen)
        error = error.__cause__


def speaks_of_nan(message: str) -> bool:
    """Whether an exception says that numbers were not finite, as samplers, distributions and other libraries do."""
    return _NAN.search(message) is not None


def tensors_in(trace: TracebackType | None) -> Iterator[torch.Tensor]:
    """Tensors that an exception passed by: local variables of the frames of a traceback, the innermost frame first."""
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    for frame in frames[: -FRAMES - 1 : -1]:
        yield from (value for value in list(frame.f_locals.values()) if isinstance(value, torch.Tensor))


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
