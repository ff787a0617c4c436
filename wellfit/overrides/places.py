"""Where in the script something is, as it stands in what overrides say they changed."""

from __future__ import annotations

import inspect
import linecache
import os
from typing import Any

from wellfit.probe.locate import is_user_file, user_place


def made_at(function: Any) -> tuple[str, int] | None:
    """Absolute file, and the line that begins with `def`, of a function; None if it is not the user's."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or not is_user_file(code.co_filename):
        return None
    line = code.co_firstlineno  # of a decorator, if there is one
    for further in range(line, line + 10):
        if linecache.getline(code.co_filename, further).lstrip().startswith(("def ", "async def ")):
            line = further
            break
    return os.path.abspath(code.co_filename), line


def here_text() -> str:
    """ " at train.py:12": the nearest line of the user's that led here; empty if there is none."""
    place = user_place(2)
    return f" at {os.path.basename(place[0])}:{place[1]}" if place is not None else ""
