"""The user's source around a finding, and the name of its file as the user would write it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from wellfit.finding import Location
from wellfit.report.safe import printable, source_line

# A record can come from a stranger and name any file of this machine: only Python source of a sane size is shown, so
# that a report that is passed on never carries a private key or a password file.
_SUFFIXES = {".py", ".pyw"}
_LARGEST = 4_000_000


@dataclass(frozen=True)
class Excerpt:
    """Lines of a source file around one that is to blame.

    Args:
        first: 1-based number of the first line shown.
        lines: the lines, made harmless.
        blamed: 1-based number of the line to blame.
    """

    first: int
    lines: tuple[str, ...]
    blamed: int

    @property
    def blamed_line(self) -> str:
        """The line to blame, without the excerpt around it."""
        return self.lines[self.blamed - self.first]


def shown_path(file: str) -> str:
    """The path relative to the current folder where it lies inside it, else as it is; harmless to print."""
    try:
        inside = Path(file).resolve().relative_to(Path.cwd().resolve())
    except (OSError, ValueError, RuntimeError):
        return printable(file, 300)
    return printable(inside, 300)


def place(location: Location) -> str:
    """`file.py:18`, relative to the current folder where inside it."""
    return f"{shown_path(location.file)}:{location.line}"


def excerpt(location: Location | None, around: int = 0) -> Excerpt | None:
    """The source lines around a location.

    Args:
        location: the user's line, or None.
        around: how many lines before and after to take.

    Returns:
        the lines, or None if there is no location, or its file is no Python source that can be read, or the line is
        past its end (the file has changed since).
    """
    if location is None:
        return None
    lines = _lines(location.file)
    if not 1 <= location.line <= len(lines):
        return None
    first = max(1, location.line - around)
    shown = lines[first - 1 : location.line + around]
    return Excerpt(first, tuple(source_line(line) for line in shown), location.line)


def _lines(file: str) -> list[str]:
    """The lines of a Python source file; none if it cannot be read or is not one."""
    try:
        if os.path.splitext(file)[1].lower() not in _SUFFIXES:
            return []
        about = os.stat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST:
            return []
        return Path(file).read_text(encoding="utf-8", errors="replace").split("\n")
    except (OSError, ValueError):
        return []
