"""Finding the rules: every file below `wellfit/rules`, and the entry points `wellfit.rules` of other packages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.rule import Rule

FAMILIES = (
    "data", "initialisation", "forward", "normalisation", "recurrent", "backward", "update", "numerics", "distributed",
    "curve", "slim",
)  # fmt: skip
_FOLDER = Path(__file__).parent / "rules"
_PACKAGE = "wellfit.rules"
_GROUP = "wellfit.rules"
_TYPES: dict[str, type] = {"bool": bool, "float": float, "int": int}


def rules(
    select: Iterable[str] = (),
    thresholds: Mapping[str, Mapping[str, Any]] | None = None,
    problems: list[str] | None = None,
) -> list[Rule]:
    """The rules to ask, one instance each, in the order of their codes.

    Those to ignore are among them: what they explain shall not be told in their place (`diagnose`).

    Args:
        select: names, codes, families or prefixes of codes ("dead-units", "FWD302", "forward", "FWD3"); empty for all.
        thresholds: by name of the rule, the values that differ from the rule's own.
        problems: one sentence is added for each rule that could not be loaded.

    Raises:
        WellfitError: a name is unknown, a value has the wrong type, or two rules share a name or code.
    """
    classes, broken = known_rules()
    if problems is not None:
        problems += broken
    chosen = _matching(select, classes) if (select := tuple(select)) else set(classes)
    by_name = {rule.name: rule for rule in classes}
    for name in thresholds or {}:
        if name not in by_name:
            raise WellfitError(f'thresholds are set for an unknown rule "{name}"{did_you_mean(name, by_name)}')
    return [_made(rule, (thresholds or {}).get(rule.name, {})) for rule in classes if rule in chosen]


def names_of(words: Iterable[str]) -> frozenset[str]:
    """The names of the rules that the words of `--ignore` mean; words as those of `rules` for `select`.

    Raises:
        WellfitError: a name is unknown.
    """
    words = tuple(words)
    return frozenset(rule.name for rule in _matching(words, known_rules()[0])) if words else frozenset()


def find_rule(name: str) -> type[Rule]:
    """The rule of a name or code.

    Raises:
        WellfitError: there is none.
    """
    classes, _ = known_rules()
    for rule in classes:
        if name.lower() in (rule.name, rule.code.lower()):
            return rule
    known = [rule.name for rule in classes] + [rule.code for rule in classes]
    raise WellfitError(f'there is no rule "{name}"{did_you_mean(name, known)}; `wellfit rules` lists them all')


@cache
def known_rules() -> tuple[tuple[type[Rule], ...], tuple[str, ...]]:
    """All rules that could be loaded, in the order of their codes, and a sentence for each one that could not.

    Raises:
        WellfitError: two rules share a name or a code.
    """
    problems: list[str] = []
    found = [*_own(_FOLDER, _PACKAGE, problems), *_of_others(problems)]
    taken: dict[str, type[Rule]] = {}
    for rule in found:
        for key in (rule.name, rule.code):
            other = taken.setdefault(key, rule)
            if other is not rule:
                raise WellfitError(
                    f'two rules are called "{key}": {other.__module__}.{other.__qualname__} and '
                    f"{rule.__module__}.{rule.__qualname__}; rename one"
                )
    return tuple(sorted(found, key=lambda rule: rule.code)), tuple(problems)


def thresholds_of(rule: type[Rule]) -> dict[str, int | float | bool]:
    """Names and own values of a rule's thresholds: its annotated fields that are numbers or switches."""
    found: dict[str, int | float | bool] = {}
    for layer in reversed(rule.__mro__):
        if not issubclass(layer, Rule) or layer is Rule:
            continue
        for name, kind in layer.__annotations__.items():
            if not name.startswith("_") and _type_of(kind) is not None and hasattr(rule, name):
                found[name] = getattr(rule, name)
    return found


def _type_of(kind: Any) -> type | None:
    """int, float or bool of an annotation, which may be text; None for any other."""
    return _TYPES.get(kind) if isinstance(kind, str) else _TYPES.get(getattr(kind, "__name__", ""))


def _own(folder: Path, package: str, problems: list[str]) -> Iterator[type[Rule]]:
    """The rules in the files below a folder."""
    for file in sorted(folder.rglob("*.py")):
        if file.name.startswith("_"):
            continue
        name = ".".join([package, *file.relative_to(folder).with_suffix("").parts])
        try:
            yield from _in_module(import_module(name))
        except Exception as error:
            problems.append(f"the rules in {name} are switched off: {_told(error)}")


def _of_others(problems: list[str]) -> Iterator[type[Rule]]:
    """The rules of other packages: an entry point names a Rule, or a module of them."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=_GROUP):
        try:
            loaded = entry.load()
            rules = list(_in_module(loaded)) if isinstance(loaded, ModuleType) else [loaded]
            for rule in rules:
                _check_anatomy(rule)
            if not rules:
                raise WellfitError(f"the module {loaded.__name__} defines no rule")
            yield from rules
        except Exception as error:
            problems.append(f'the rule "{entry.name}" ({entry.value}) is switched off: {_told(error)}')


def _in_module(module: ModuleType) -> Iterator[type[Rule]]:
    for value in list(vars(module).values()):
        own = isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module.__name__
        if own and "name" in vars(value):  # a shared base of several rules has no name
            _check_anatomy(value)
            yield value


def _check_anatomy(rule: Any) -> None:
    """Raise unless a class has the fields that everything else relies on."""
    if not (isinstance(rule, type) and issubclass(rule, Rule)):
        raise WellfitError(f"{rule!r} is no subclass of wellfit.Rule")
    for name in ("code", "name", "family", "summary"):
        if not isinstance(getattr(rule, name, None), str):
            raise WellfitError(f'{rule.__qualname__} needs the field "{name}", a text')
    if rule.family not in FAMILIES:
        raise WellfitError(f'{rule.__qualname__}: the family "{rule.family}" is none of {", ".join(FAMILIES)}')
    for name in ("reads", "consequences", "fixes"):
        if not isinstance(getattr(rule, name), tuple):
            raise WellfitError(f'{rule.__qualname__}: the field "{name}" must be a tuple')


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, WellfitError) else f"{type(error).__name__}: {text}"


def matches(name: str, rule_name: str, code: str) -> bool:
    """Whether a word of `--select` or of an ignore comment means a rule: its name, its code or a prefix of it."""
    word = name.strip()
    if word == rule_name or word.upper() == code.upper():
        return True
    letters = word.rstrip("0123456789")
    return letters.isalpha() and word.isupper() and code.startswith(word)


def _matching(names: Iterable[str], classes: Iterable[type[Rule]]) -> set[type[Rule]]:
    """The rules that some words mean."""
    classes = tuple(classes)
    found: set[type[Rule]] = set()
    for name in names:
        hits = {rule for rule in classes if name == rule.family or matches(name, rule.name, rule.code)}
        if name.upper() == "ALL":
            hits = set(classes)
        if not hits:
            known = [word for rule in classes for word in (rule.name, rule.code, rule.family)]
            raise WellfitError(
                f'no rule is called "{name}", and no code begins with it{did_you_mean(name, known)}; '
                "`wellfit rules` lists them all"
            )
        found |= hits
    return found


def _made(rule: type[Rule], values: Mapping[str, Any]) -> Rule:
    """An instance, with the user's thresholds set on it."""
    made = rule()
    own = thresholds_of(rule) if values else {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in own:
            raise WellfitError(f'{rule.name} has no threshold "{key}"{did_you_mean(name, own)}')
        setattr(made, name, _value(value, type(own[name]), f"{rule.name}: {name}"))
    return made


def _value(value: Any, kind: type, what: str) -> int | float | bool:
    """A threshold of the right type, or a clear error."""
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise WellfitError(f"{what} is true or false, not {value!r}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise WellfitError(f"{what} is a number, not {value!r}")
    if kind is int:
        if value != int(value) if math.isfinite(value) else True:
            raise WellfitError(f"{what} is a whole number, not {value!r}")
        return int(value)
    return float(value)
