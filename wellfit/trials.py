"""What a fix says to try, in a run that was made under overrides: not what is on already, nor what contradicts it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.finding import Finding

if TYPE_CHECKING:
    from wellfit.record import Run

_SCALED = "lr=scale:"


def fit_to_overrides(findings: Iterable[Finding], run: Run) -> None:
    """Change the fixes of findings to what is left to try: a rate that is scaled already is scaled further.

    Args:
        findings: fresh ones, of `diagnose`.
        run: the run they are about.
    """
    entries = run.meta.get("overrides")
    on = {
        str(entry.get("override")): entry
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
    }
    for finding in findings if on else ():
        finding.fixes = tuple(replace(fix, override=_left_to_try(fix.override, on)) for fix in finding.fixes)


def _left_to_try(override: str | None, on: dict[str, dict[str, Any]]) -> str | None:
    """An override to give beside those that are on, or in place of the one of the same name; None if there is none."""
    there = on.get(override.partition("=")[0]) if override else None
    if override is None:
        return None
    if there is None:
        return override if _goes_with(override, on) else None
    scale = there.get("scale")
    if not override.startswith(_SCALED) or isinstance(scale, bool) or not isinstance(scale, (int, float)):
        return None
    try:
        factor = scale * float(override.removeprefix(_SCALED))
    except (ValueError, OverflowError):
        return None
    return None if math.isclose(factor, 1.0) else f"{_SCALED}{factor:.6g}"


def _goes_with(override: str, on: dict[str, dict[str, Any]]) -> bool:
    """Whether an override may be given beside those that are on: `wellfit run` refuses two that do not fit."""
    from wellfit.overrides.catalogue import from_json, parse, together

    try:
        there = from_json(list(on.values()))
        proposed = parse([override])
    except WellfitError:
        return True  # of overrides that this version does not know nothing can be told
    try:
        together([*there, *proposed])
    except WellfitError:
        return False
    return True
