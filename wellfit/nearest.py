"""The name that was probably meant, for error messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean "dead-units"?)` if a known name looks alike, else an empty text."""
    return _nearest(name, {entry: entry for entry in known})


def did_you_mean_file(path: str, known: Iterable[str]) -> str:
    """The same for paths, by their last names alone: all scripts of a folder are alike in ".py"."""
    scripts_last = sorted(known, key=lambda entry: entry.endswith(".py"))
    return _nearest(_stem(path), {_stem(entry): entry for entry in scripts_last})


def _nearest(name: str, choices: Mapping[str, str]) -> str:
    """What stands for the choice that looks most like a name."""
    from difflib import get_close_matches

    lowered = {choice.lower(): meant for choice, meant in choices.items()}
    found = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return f' (did you mean "{lowered[found[0]]}"?)' if found else ""


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path.rstrip("/")))[0]
