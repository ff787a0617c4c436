"""The JSON of a file: the list of changes, and what else is told about the model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from wellfit.errors import WellfitError
from wellfit.slim.wfz.damage import Damaged

_DEEPEST = 64  # lists and objects within each other
_LONGEST_NUMBER = 40  # digits: reading a longer one takes time with the square of its length
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def pack_text(changes: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> bytes:
    """Both as JSON; nothing where there is nothing to tell.

    Raises:
        WellfitError: something in them is no JSON (a number that is not finite, an object of Python).
    """
    told = {"changes": [dict(change) for change in changes], "meta": dict(meta)}
    told = {key: value for key, value in told.items() if value}
    if not told:
        return b""
    try:
        text = json.dumps(told, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        take_text(text)
    except (TypeError, ValueError, RecursionError, Damaged) as error:
        raise WellfitError(f"changes and meta of a .wfz file are plain JSON, which these are not: {error}") from None
    return text


def take_text(data: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Changes and meta. Damaged if they are none."""
    if not data:
        return [], {}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Damaged("its JSON is no UTF-8") from None
    if _depth(text) > _DEEPEST:
        raise Damaged(f"its JSON is nested more than {_DEEPEST} deep")
    try:
        told = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
        json.dumps(told, ensure_ascii=False).encode()  # text that is half of a pair of UTF-16 is no text
    except ValueError as error:
        raise Damaged(f"its JSON cannot be read: {error}") from None
    if not isinstance(told, dict) or not told.keys() <= {"changes", "meta"}:
        raise Damaged("its JSON holds more than changes and meta")
    changes, meta = told.get("changes", []), told.get("meta", {})
    if not isinstance(meta, dict) or not isinstance(changes, list) or not all(isinstance(one, dict) for one in changes):
        raise Damaged("changes are not a list of objects, or meta is no object")
    return changes, meta


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice in one object")
    return made


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"{digits[:_LONGEST_NUMBER]} is too large")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
