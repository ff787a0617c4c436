"""`[tool.wellfit]` of the user's pyproject.toml."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean

FailOn = Literal["never", "error", "note"]
Thresholds = dict[str, dict[str, Any]]

_KEYS = ("fail-on", "ignore", "overhead", "quota", "rules", "select")


@dataclass(frozen=True)
class Config:
    """What the user set for a project.

    Args:
        select: names, codes or prefixes of the rules to use; empty for all.
        ignore: names, codes or prefixes of the rules to leave out.
        fail_on: from which severity a finding makes the exit code 1.
        overhead: budget of the probe, in percent of the run's time.
        quota: most that one run may write, in MB.
        thresholds: of each rule by name, what differs from the rule's own value.
        file: the pyproject.toml it was read from; None for the defaults.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: FailOn = "never"
    overhead: float = 1.0
    quota: int = 512
    thresholds: Thresholds = field(default_factory=dict)
    file: Path | None = None


@dataclass(frozen=True)
class Asked:
    """Which rules are asked, and how.

    Args:
        select: names, codes or prefixes of the rules to ask; empty for all.
        ignore: the same, of those whose findings are left out with all that they explain.
        thresholds: of each rule by name, what differs from the rule's own value.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=dict)


def asked_of(config: Config, select: str | None, ignore: str | None) -> Asked:
    """What the command line says, and where it says nothing the user's settings.

    Args:
        config: the settings.
        select, ignore: as typed after `--select` and `--ignore`; None if they were not.

    Raises:
        WellfitError: a setting means a rule or a threshold that there is not.
    """
    check_rules(config)
    own = config.ignore if select is None else ()
    return Asked(
        config.select if select is None else names_list(select), own if ignore is None else names_list(ignore),
        config.thresholds,
    )  # fmt: skip


def load_config(folder: Path) -> Config:
    """The settings of the nearest pyproject.toml, from a folder upwards, that has a table `[tool.wellfit]`.

    Args:
        folder: absolute path to start at.

    Raises:
        WellfitError: a key is unknown, a value has the wrong type, or the file is no TOML.
    """
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "wellfit" not in text:
            continue
        table = _parsed(text, file).get("tool", {})
        if isinstance(table, dict) and "wellfit" in table:
            if not isinstance(table["wellfit"], dict):
                raise WellfitError(f'"wellfit" is a table, [tool.wellfit], not {table["wellfit"]!r}, in {file}')
            return _config(table["wellfit"], file)
    return Config()


def check_rules(config: Config) -> None:
    """Raise a WellfitError that names the file where a setting means a rule or a threshold that there is not."""
    if not (config.select or config.ignore or config.thresholds):
        return
    from wellfit.catalogue import names_of, rules

    try:
        rules(config.select, config.thresholds)
        names_of(config.ignore)
    except WellfitError as error:
        raise WellfitError(f"in [tool.wellfit] of {config.file}: {error}") from None


def names_list(text: str) -> tuple[str, ...]:
    """`dead-units, DAT` of the command line as a tuple of names."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _parsed(text: str, file: Path) -> dict[str, Any]:
    toml = _toml_reader(file)
    try:
        parsed: dict[str, Any] = toml.loads(text)
    except ValueError as error:
        raise WellfitError(f"{file} is no valid TOML: {error}") from None
    return parsed


def _toml_reader(file: Path) -> Any:
    """`tomllib`, or the package it came from where Python has none."""
    for name in ("tomllib", "tomli"):
        with contextlib.suppress(ModuleNotFoundError):
            return import_module(name)
    raise WellfitError(f"{file} has settings of wellfit, but this Python 3.10 cannot read TOML: install tomli")


def _config(table: dict[str, Any], file: Path) -> Config:
    where = f"in [tool.wellfit] of {file}"
    for key in table:
        if key not in _KEYS:
            raise WellfitError(f'unknown setting "{key}"{did_you_mean(key, _KEYS)} {where}')
    fail_on = table.get("fail-on", "never")
    if fail_on not in ("never", "error", "note"):
        raise WellfitError(f'"fail-on" is "never", "error" or "note", not {fail_on!r}, {where}')
    overhead = table.get("overhead", 1.0)
    check_overhead(overhead, f'"overhead" {where}')
    quota = table.get("quota", 512)
    check_quota(quota, f'"quota" {where}')
    return Config(
        select=_names(table, "select", where),
        ignore=_names(table, "ignore", where),
        fail_on=fail_on,
        overhead=float(overhead),
        quota=quota,
        thresholds=_thresholds(table.get("rules", {}), where),
        file=file,
    )


def check_overhead(value: Any, what: str) -> None:
    """Raise unless a value is a percentage that a budget can have."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= 100:
        raise WellfitError(f"{what} is a percentage above 0 and up to 100, not {value!r}")


def check_quota(value: Any, what: str) -> None:
    """Raise unless a value is a whole number of MB that a record fits in."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WellfitError(f"{what} is a whole number of MB, at least 1, not {value!r}")


def _names(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise WellfitError(f'"{key}" is a list of names of rules such as ["dead-units", "DAT"], not {value!r}, {where}')
    return tuple(value)


def _thresholds(table: Any, where: str) -> Thresholds:
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise WellfitError(f'"rules" holds one table for each rule, such as [tool.wellfit.rules.dead-units], {where}')
    return table
