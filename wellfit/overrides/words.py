"""Lists of names and errors, as they stand in what overrides say."""

from __future__ import annotations

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 4) -> str:
    """ "fc1, fc2, fc3, fc4 and 3 more": each name once."""
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - most
    return ", ".join(distinct[:most]) + (f" and {more} more" if more > 0 else "")


def in_short(error: BaseException, most: int = 200) -> str:
    """ "ValueError: too few": what an error says, on one line of so many characters at most."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:most]
