"""The name that was probably meant, for error messages."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean "dead-units"?)` if a known name looks alike, else an empty text."""
    from difflib import get_close_matches

    choices = {entry.lower(): entry for entry in known}
    found = get_close_matches(name.lower(), list(choices), n=1, cutoff=0.6)
    return f' (did you mean "{choices[found[0]]}"?)' if found else ""
