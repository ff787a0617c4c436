"""Values for single layers, as they are typed: "fc1=0.95;conv*=0.5"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from wellfit.errors import WellfitError
from wellfit.overrides.modules import matches

T = TypeVar("T")


class Patterns(Generic[T]):
    """What is asked for single layers; the first pattern that fits counts.

    Args:
        given: "PATTERN=VALUE;PATTERN=VALUE", or None.
        read: gives the value of its text, and of a phrase that names it in an error: `Parameter.value`, say.
        where: names the parameter in an error.
        kind: of value, for the error that tells how it is written.

    Raises:
        WellfitError: it is written in another way, or a value is out of range.
    """

    def __init__(self, given: str | None, read: Callable[[str, str], T], where: str, kind: str = "NUMBER") -> None:
        self._pairs: list[tuple[str, T]] = []
        for part in (given or "").split(";") if given is not None else ():
            pattern, equals, value = (word.strip() for word in part.rpartition("="))
            if not (pattern and equals and value):
                raise WellfitError(f'{where} is written as PATTERN={kind};PATTERN={kind}, not "{given}"')
            self._pairs.append((pattern, read(value, f'"{pattern}" in {where}')))

    def of(self, name: str) -> T | None:
        """The value for a parameter of this name; None if nothing is asked for it."""
        return next((value for pattern, value in self._pairs if matches(name, pattern)), None)

    def missing(self, names: list[str]) -> list[str]:
        """The patterns that fit none of these names."""
        return [pattern for pattern, _ in self._pairs if not any(matches(name, pattern) for name in names)]
