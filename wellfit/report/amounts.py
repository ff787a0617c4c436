"""Numbers as people read them, and as strict JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from wellfit.report.safe import printable, valid


def number_text(value: Real | float) -> str:
    """A number with 4 significant digits; whole numbers in full ("12 000", no-break spaces); "NaN", "inf"."""
    if isinstance(value, Integral):
        whole = int(value)
        return f"{whole:,}".replace(",", "\u00a0") if abs(whole) >= 10_000 else str(whole)
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    text = f"{number:.4g}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def evidence_text(value: object) -> str:
    """One value of a finding's evidence as text; lists are joined, at most six entries of them."""
    if isinstance(value, (list, tuple)):
        shown = ", ".join(evidence_text(entry) for entry in value[:6])
        return f"{shown} and {len(value) - 6} more" if len(value) > 6 else shown
    if isinstance(value, bool) or not isinstance(value, Real):
        return printable(value, 200)
    return number_text(value)


def evidence_pairs(evidence: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names ("dead share" of `dead_share`) and values of evidence as text, in the order of the rule."""
    return [(printable(name, 60).replace("_", " "), evidence_text(value)) for name, value in evidence.items()]


def strict(value: Any) -> Any:
    """The same value for strict JSON: non-finite numbers are the strings "NaN", "Infinity", "-Infinity".

    Numbers of numpy become Python's; unknown objects become `printable` text; lone surrogates become U+FFFD.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, Mapping):
        return {valid(str(key)): strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [strict(entry) for entry in value]
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return printable(value)
