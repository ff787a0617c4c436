"""Finding overrides, and reading them from the command line and from JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.overrides.override import GROUPS, Override
from wellfit.overrides.parameters import default_of, made, parameters_of, shortened
from wellfit.overrides.spoken import OVERRIDES

_FOLDER = Path(__file__).parent


@cache
def known_overrides() -> tuple[type[Override], ...]:
    """All overrides, group by group, each group by name.

    Raises:
        WellfitError: two share a name.
    """
    found: list[type[Override]] = []
    for group in GROUPS:
        here: list[type[Override]] = []
        for file in (_FOLDER / group).glob("*.py"):
            if not file.name.startswith("_"):
                module = import_module(f"wellfit.overrides.{group}.{file.stem}")
                here += [
                    value
                    for value in vars(module).values()
                    if isinstance(value, type)
                    and issubclass(value, Override)
                    and value.__module__ == module.__name__
                    and "name" in vars(value)
                ]
        found += sorted(here, key=lambda override: override.name)
    names = [override.name for override in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise WellfitError(f'two overrides are called "{twice}": rename one')
    return tuple(found)


def group_of(override: type[Override]) -> str:
    """The group of an override: the folder of its file."""
    return override.__module__.split(".")[-2]


def find_override(name: str) -> type[Override]:
    """The override of a name.

    Raises:
        WellfitError: there is none.
    """
    known = {override.name: override for override in known_overrides()}
    word = name.strip().lower().replace("_", "-")
    if word not in known:
        # A fault is not what a typing error was meant for, unless it is written all but right.
        cures = [other for other, override in known.items() if group_of(override) != "faults"]
        meant = OVERRIDES.get(word, word)
        likely = did_you_mean(shortened(meant), cures) or did_you_mean(shortened(meant), known)
        raise WellfitError(f'there is no override "{shortened(name)}"{likely}; `wellfit overrides` lists them all')
    return known[word]


def parse(texts: Iterable[str]) -> list[Override]:
    """Overrides as typed: `NAME`, `NAME=VALUE`, `NAME=VALUE,KEY:VALUE` or `NAME=KEY:VALUE,KEY:VALUE`.

    Raises:
        WellfitError: a name or parameter is unknown, a value is out of range, or two contradict each other.
    """
    return together([_parsed(text) for text in texts])


def from_json(entries: Any) -> list[Override]:
    """Overrides as `as_json` gives them.

    Raises:
        WellfitError: as for `parse`, or these are no list of objects with a name.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise WellfitError(f"overrides are a list of objects, not {type(entries).__name__}")
    made_ones: list[Override] = []
    for entry in entries:
        if isinstance(entry, Mapping) and not all(isinstance(key, str) for key in entry):
            raise WellfitError(f"the parameters of an override are called by texts, not as in {shortened(entry)}")
        key = next((key for key in entry if key.lower() == "override"), "") if isinstance(entry, Mapping) else ""
        if not key or not isinstance(entry[key], str):
            raise WellfitError(f'an override is an object with its name under "override", not {shortened(repr(entry))}')
        made_ones.append(made(find_override(entry[key]), {name: entry[name] for name in entry if name != key}))
    return together(made_ones)


def as_json(overrides: Iterable[Override]) -> list[dict[str, Any]]:
    """Overrides as values of JSON: `{"override": NAME, PARAMETER: VALUE, ...}`, without parameters that are None."""
    return [{"override": override.name, **values_of(override)} for override in overrides]


def values_of(override: Override) -> dict[str, Any]:
    """The parameters of an override that have a value."""
    values = {name: getattr(override, name) for name in parameters_of(type(override))}
    return {name: value for name, value in values.items() if value is not None}


def as_text(override: Override) -> str:
    """An override as it would be typed, without the parameters that have their default."""
    words: list[str] = []
    first = next(iter(parameters_of(type(override))), None)
    for name, value in values_of(override).items():
        if value != default_of(type(override), name):
            shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else f"{value}"
            words.append(shown if name == first else f"{name.replace('_', '-')}:{shown}")
    return override.name + ("=" + ",".join(words) if words else "")


def together(overrides: list[Override]) -> list[Override]:
    """The same overrides, in the order in which they act.

    Raises:
        WellfitError: one is given twice, or two contradict each other.
    """
    names = [override.name for override in overrides]
    for override in overrides:
        if names.count(override.name) > 1:
            raise WellfitError(f"--override {override.name} is given twice: leave one")
        against = next((name for name in names if name in override.conflicts), None)
        if against is not None:
            raise WellfitError(f"--override {override.name} and --override {against} contradict each other: leave one")
        override.check_beside(overrides)
    return sorted(overrides, key=lambda override: override.rank)


def _parsed(text: str) -> Override:
    name, equals, rest = text.partition("=")
    override = find_override(name)
    known = list(parameters_of(override))
    given: dict[str, str] = {}
    shown = f"--override {shortened(text)}"
    parts = rest.split(",") if equals else []
    for index, part in enumerate(parts):
        key, colon, value = part.partition(":")
        if not (value if colon else part).strip():
            what = f"after {part.strip()}" if colon else 'after "="' if len(parts) == 1 else "on one side of a comma"
            raise WellfitError(f"{shown}: nothing stands {what}; write it as in --override {override.example}")
        if not colon:
            if not known:
                raise WellfitError(f"{shown}: {override.name} takes no value; write --override {override.name}")
            if index:
                hint = "; a decimal fraction is written with a point" if index == 1 and _is_fraction(parts) else ""
                raise WellfitError(
                    f'{shown}: "{shortened(part)}" has no name; write it as in --override {override.example}{hint}'
                )
            key, value = known[0], part
        key = key.strip().lower()
        if key.replace("-", "_") in given:
            raise WellfitError(f"{shown}: {key} is given twice")
        given[key.replace("-", "_")] = value.strip()
    return made(override, given)


def _is_fraction(parts: Sequence[str]) -> bool:
    """Whether "0,1" was split at its comma."""
    return all(part.strip().lstrip("+-").isdecimal() for part in parts[:2])
