"""Numbers for single layers, as they are typed: "fc1=0.95;conv*=0.5"."""

from __future__ import annotations

from wellfit.errors import WellfitError
from wellfit.overrides.modules import matches
from wellfit.overrides.parameters import Parameter


class Patterns:
    """What is asked for single layers; the first pattern that fits counts.

    Args:
        given: "PATTERN=NUMBER;PATTERN=NUMBER", or None.
        parameter: what a number may be.
        where: names the parameter in an error.

    Raises:
        WellfitError: it is written in another way, or a number is out of range.
    """

    def __init__(self, given: str | None, parameter: Parameter, where: str) -> None:
        self._pairs: list[tuple[str, float]] = []
        for part in (given or "").split(";") if given is not None else ():
            pattern, equals, number = (word.strip() for word in part.rpartition("="))
            if not (pattern and equals and number):
                raise WellfitError(f'{where} is written as PATTERN=NUMBER;PATTERN=NUMBER, not "{given}"')
            self._pairs.append((pattern, parameter.value(number, f'"{pattern}" in {where}')))

    def of(self, name: str) -> float | None:
        """The number for a parameter of this name; None if nothing is asked for it."""
        return next((number for pattern, number in self._pairs if matches(name, pattern)), None)

    def missing(self, names: list[str]) -> list[str]:
        """The patterns that fit none of these names."""
        return [pattern for pattern, _ in self._pairs if not any(matches(name, pattern) for name in names)]
