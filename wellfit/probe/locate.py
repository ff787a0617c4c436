"""Where in the user's program something happened: the nearest frame that is not torch, not the library, not ours."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import CodeType, FrameType

OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MODELS = os.path.join(OURS, "nn") + os.sep  # layers that users build with, as they do with torch's
_LIBRARY = tuple(
    {
        os.path.abspath(path) + os.sep
        for key in ("stdlib", "platstdlib", "purelib", "platlib")
        if (path := sysconfig.get_paths().get(key))
    }
)
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)

_is_user: dict[str, bool] = {}

Place = tuple[str, int]


def is_user_file(name: str) -> bool:
    """Whether code from this file is the user's own (not ours, the standard library, or an installed package)."""
    known = _is_user.get(name)
    if known is None:
        path = os.path.abspath(name)
        known = not (
            name.startswith("<")
            or path.startswith(OURS)
            or path.startswith(_LIBRARY)
            or any(part in path for part in _INSTALLED)
        ) or name.startswith("<ipython-input")
        _is_user[name] = known
    return known


def is_ours(name: str) -> bool:
    """Whether code from this file watches or changes the user's program, rather than being a part of it."""
    return name.startswith(OURS) and not name.startswith(_MODELS)


def user_frame(frame: FrameType | None, limit: int = 80) -> FrameType | None:
    """The nearest frame of the user's own code at or above `frame`; None if there is none within `limit` frames."""
    while frame is not None and limit:
        if is_user_file(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
        limit -= 1
    return None


def user_place(depth: int = 1) -> Place | None:
    """File and line of the nearest user frame above the caller.

    Args:
        depth: frames to leave out (1: start at the caller of this function).

    Returns:
        (absolute file, 1-based line); None if no frame is the user's.
    """
    frame = user_frame(sys._getframe(depth))
    return None if frame is None else (os.path.abspath(frame.f_code.co_filename), frame.f_lineno)


def location(place: Place | None) -> dict[str, str | int] | None:
    """A place as it stands in the record."""
    return None if place is None else {"file": place[0], "line": place[1]}


_places: dict[tuple[int, int], tuple[Place, CodeType]] = {}


def cached_place(depth: int) -> Place | None:
    """As `user_place`, but quick where the caller is mostly the same instruction (for every step)."""
    frame = sys._getframe(depth)
    user = frame if _is_user.get(frame.f_code.co_filename) else user_frame(frame)
    if user is None:
        return None
    # By id, as a code object is hashed by all that it holds; kept beside, so that no other takes its id.
    key = (id(user.f_code), user.f_lasti)
    known = _places.get(key)
    if known is None:
        known = _places[key] = ((os.path.abspath(user.f_code.co_filename), user.f_lineno), user.f_code)
    return known[0]


def variable_name(value: object, frame: FrameType | None) -> str | None:
    """The name under which user code at or above `frame` knows `value` ("net", "self.model"), or None."""
    fallback = None
    depth = 0
    while frame is not None and depth < 40:
        if is_user_file(frame.f_code.co_filename):
            names = frame.f_locals
            for name, held in list(names.items()):
                if held is value and name != "self":
                    return name
            holder = names.get("self")
            if fallback is None and holder is not None and holder is not value:
                fallback = _attribute_name(value, holder)
            if names is not frame.f_globals and sys.version_info < (3, 13):
                # The snapshot of a function's locals would keep the user's tensors alive until the frame ends.
                names.clear()
                del names
        frame = frame.f_back
        depth += 1
    return fallback or _main_name(value)


def _attribute_name(value: object, holder: object) -> str | None:
    attributes = getattr(holder, "__dict__", {})
    return next((name for name, held in list(attributes.items()) if held is value), None)


def _main_name(value: object) -> str | None:
    main = sys.modules.get("__main__")
    names = getattr(main, "__dict__", {})
    return next((name for name, held in list(names.items()) if held is value and not name.startswith("_")), None)
