"""What an override can be given: typed fields with a range and a meaning, checked before anything is started."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.overrides.spoken import VALUES

if TYPE_CHECKING:
    from wellfit.overrides.override import Override

_KEY = "wellfit"
_SWITCH = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """What one field of an override may hold.

    Args:
        kind: "number", "whole", "choice", "switch" or "text".
        meaning: a phrase with the unit.
        low, high: the range of a number, both inclusive, but that `low` itself is out where `open` is set.
        choices: the words of a "choice".
    """

    kind: str
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The values that may be given, in words."""
        if self.kind == "choice":
            return ", ".join(self.choices)
        if self.kind == "switch":
            return "on or off"
        if self.kind == "text":
            return "a text"
        name, shown = ("a whole number", ".0f") if self.kind == "whole" else ("a number", "g")
        low = "" if self.low == -math.inf else f" {'above' if self.open else 'from'} {self.low:{shown}}"
        high = "" if self.high == math.inf else f" to {self.high:{shown}}"
        return name + low + high

    def value(self, given: Any, where: str) -> Any:
        """The value that was meant.

        Args:
            given: a text of the command line, or a value of JSON.
            where: names the parameter in an error.

        Raises:
            WellfitError: it is of the wrong kind or out of range.
        """
        if self.kind == "text":
            if not str(given).strip():
                raise WellfitError(f"{where} is {self.range}, and nothing is given")
            return str(given)
        if self.kind == "choice":
            word = str(given).lower()
            if word not in self.choices:
                meant = shortened(VALUES.get(word, given))
                likely = did_you_mean(meant, self.choices)
                raise WellfitError(f'{where} is one of {self.range}, not "{shortened(given)}"{likely}')
            return word
        if self.kind == "switch":
            if isinstance(given, bool):
                return given
            if str(given).lower() not in _SWITCH:
                raise WellfitError(f'{where} is on or off, not "{shortened(given)}"')
            return _SWITCH[str(given).lower()]
        return self._number(given, where)

    def _number(self, given: Any, where: str) -> int | float:
        number = _whole(given) if self.kind == "whole" else _real(given)
        outside = number is None or not self.low <= number <= self.high or (self.open and number == self.low)
        # A count beyond the machine's whole numbers would only fail later, in torch.
        too_large = self.kind == "whole" and number is not None and number > sys.maxsize and self.high == math.inf
        if number is None or outside or too_large:
            why = "; a name and its value are joined by a colon" if isinstance(given, str) and "=" in given else ""
            why = ", which is too large" if too_large else why
            raise WellfitError(f'{where} is {self.range}, not "{shortened(given)}"{why}')
        return number


def shortened(given: Any, most: int = 60) -> str:
    """A value for an error, which is one line."""
    try:
        shown = str(given)
    except ValueError:  # a whole number of thousands of digits
        shown = f"0x{given:x}"
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _real(given: Any) -> float | None:
    """The finite number that was given; None if it is none."""
    try:
        number = math.nan if isinstance(given, bool) or not _is_plain(given) else float(given)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _whole(given: Any) -> int | None:
    """The whole number that was given, also as 1e3; None if it is none."""
    with contextlib.suppress(ValueError):
        if (isinstance(given, str) and _is_plain(given)) or type(given) is int:
            return int(given)  # all its digits
    number = _real(given)
    return int(number) if number is not None and number == int(number) else None


def _is_plain(given: Any) -> bool:
    """Whether it is a number as JSON has them too; Python takes more texts, such as 1_0."""
    return not isinstance(given, str) or (given.isascii() and "_" not in given)


def number(
    meaning: str, *, above: float | None = None, low: float = -math.inf, high: float = math.inf, default: Any = ...
) -> Any:
    """A real number: above `above`, or from `low`, to `high`. Without a default it must be given."""
    least, is_open = (low, False) if above is None else (above, True)
    return _field(Parameter("number", meaning, least, high, is_open), default)


def whole(meaning: str, *, low: float = 1, high: float = math.inf, default: Any = ...) -> Any:
    """A whole number from `low` to `high`."""
    return _field(Parameter("whole", meaning, low, high), default)


def choice(meaning: str, choices: Sequence[str], *, default: Any = ...) -> Any:
    """One of some words (in lower case)."""
    return _field(Parameter("choice", meaning, choices=tuple(choices)), default)


def switch(meaning: str, *, default: Any = ...) -> Any:
    """On or off."""
    return _field(Parameter("switch", meaning), default)


def text(meaning: str, *, default: Any = ...) -> Any:
    """Any text without commas and colons."""
    return _field(Parameter("text", meaning), default)


def _field(parameter: Parameter, default: Any) -> Any:
    metadata = {_KEY: parameter}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parameters_of(override: type[Override]) -> dict[str, Parameter]:
    """The parameters of an override by name, the one that needs no name first."""
    fields = dataclasses.fields(override)
    return {field.name: field.metadata[_KEY] for field in fields if _KEY in field.metadata}


def default_of(override: type[Override], name: str) -> Any:
    """A parameter's value where none is given; `...` if it must be given."""
    field = next(field for field in dataclasses.fields(override) if field.name == name)
    return ... if field.default is dataclasses.MISSING else field.default


def made(override: type[Override], given: Mapping[str, Any]) -> Override:
    """An instance with these values.

    Raises:
        WellfitError: a parameter is unknown, missing, out of range, or two contradict each other.
    """
    known = parameters_of(override)
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_").lower()
        if name not in known:
            shown = [_typed(each) for each in known]
            offered = f"it has {', '.join(shown)}" if shown else "it has none"
            raise WellfitError(
                f'{override.name} has no parameter "{shortened(_typed(key))}"'
                f"{did_you_mean(shortened(_typed(key)), shown)}; {offered}"
            )
        if name in values:
            raise WellfitError(f"{_typed(name)} of {override.name} is given twice")
        if value is not None:  # JSON's null
            values[name] = known[name].value(value, _where(override, name))
    for name, parameter in known.items():
        if name not in values and default_of(override, name) is ...:
            what = "a value" if name == next(iter(known)) else _where(override, name)
            raise WellfitError(
                f"{override.name} needs {what}: {parameter.meaning}, {parameter.range}, "
                f"as in --override {override.example}"
            )
    instance = override(**values)
    instance.check()
    return instance


def _where(override: type[Override], name: str) -> str:
    first = next(iter(parameters_of(override)))
    return override.name if name == first else f"{_typed(name)} of {override.name}"


def _typed(name: str) -> str:
    """A parameter as it is typed."""
    return name.replace("_", "-")
