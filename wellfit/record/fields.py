"""Taking typed fields out of a JSON object that may hold anything."""

from __future__ import annotations

from typing import Any

from wellfit.finding import Location


class Malformed(Exception):
    """A field has the wrong type, or the one that names the thing is missing."""


class Fields:
    """The fields of one declaration: missing or null ones give the default, wrong types raise Malformed."""

    def __init__(self, object: dict[str, Any]) -> None:
        self.object = object

    def need(self, key: str) -> None:
        """Raise Malformed if there is no such field."""
        if self.object.get(key) is None:
            raise Malformed(f"it has no {key}")

    def _typed(self, key: str, kind: type | tuple[type, ...], default: Any) -> Any:
        value = self.object.get(key)
        if value is None:
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise Malformed(f"its {key} is of the wrong type")
        return value

    def text(self, key: str, default: str = "") -> str:
        return str(self._typed(key, str, default))

    def text_or_none(self, key: str) -> str | None:
        value: str | None = self._typed(key, str, None)
        return value

    def whole(self, key: str, default: int = 0) -> int:
        value: int = self._typed(key, int, default)
        return value

    def whole_or_none(self, key: str) -> int | None:
        value: int | None = self._typed(key, int, None)
        return value

    def number(self, key: str, default: float = float("nan")) -> float:
        value = self._typed(key, (int, float), default)
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")

    def flag(self, key: str, default: bool = False) -> bool:
        return bool(self._typed(key, (bool, int), default))

    def items(self, key: str) -> list[Any]:
        value: list[Any] = self._typed(key, list, [])
        return value

    def objects(self, key: str) -> list[dict[str, Any]]:
        return [item for item in self.items(key) if isinstance(item, dict)]

    def table(self, key: str) -> dict[str, Any]:
        value: dict[str, Any] = self._typed(key, dict, {})
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.items(key)
        if not all(isinstance(item, str) for item in value):
            raise Malformed(f"its {key} is of the wrong type")
        return tuple(value)

    def wholes(self, key: str) -> tuple[int, ...]:
        value = self.items(key)
        if not all(isinstance(item, int) for item in value):
            raise Malformed(f"its {key} is of the wrong type")
        return tuple(value)

    def wholes_or_none(self, key: str) -> tuple[int, ...] | None:
        return None if self.object.get(key) is None else self.wholes(key)

    def location(self, key: str = "location") -> Location | None:
        return location_of(self.object.get(key))


def location_of(object: Any) -> Location | None:
    """The place that a JSON object names by `file` and `line`, or by a `location` that holds these; else None."""
    if not isinstance(object, dict):
        return None
    if isinstance(object.get("location"), dict):
        return location_of(object["location"])
    file, line = object.get("file"), object.get("line")
    if isinstance(file, str) and file and isinstance(line, int) and not isinstance(line, bool):
        return Location(file, line)
    return None
