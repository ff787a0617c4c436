"""The page of an override for the terminal and for other programs, made from its docstring and its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from wellfit.overrides.catalogue import group_of
from wellfit.overrides.override import Override
from wellfit.overrides.parameters import default_of, parameters_of


def override_json(override: type[Override]) -> dict[str, Any]:
    """Everything there is to know about an override; a parameter's `default` is missing where it must be given."""
    parameters = []
    for name, parameter in parameters_of(override).items():
        entry: dict[str, Any] = {"name": name, "meaning": parameter.meaning, "range": parameter.range}
        default = default_of(override, name)
        parameters.append(entry if default is ... else {**entry, "default": default})
    return {
        "name": override.name,
        "group": group_of(override),
        "summary": override.summary,
        "example": override.example,
        "safe": override.safe,
        "since": override.since,
        "conflicts": list(override.conflicts),
        "needs": override.misfit,
        "parameters": parameters,
        "page": inspect.cleandoc(override.__doc__ or ""),
    }


def overrides_text(overrides: Sequence[type[Override]]) -> str:
    """The table of overrides."""
    width = max((len(override.example) for override in overrides), default=0)
    lines: list[str] = []
    group = ""
    for override in overrides:
        if group_of(override) != group:
            group = group_of(override)
            lines += [*([""] if lines else []), f"{group}:"]
        lines.append(f"  {override.example:<{width}}  {override.summary}")
    return "\n".join([*lines, "", "`wellfit override NAME` shows its parameters and where it fits.", ""])


def override_text(override: type[Override]) -> str:
    """The page of an override."""
    about = override_json(override)
    kind = "safe: keeps what the program means" if override.safe else "changes what the program means or gives"
    lines = [f"{override.name}  ({about['group']}; {kind})", "", about["page"], "", "Parameters"]
    for entry in about["parameters"]:
        default = "must be given" if "default" not in entry else f"default {_shown(entry['default'])}"
        lines.append(f"  {entry['name'].replace('_', '-')}: {entry['meaning']}; {entry['range']}; {default}")
    if not about["parameters"]:
        lines.append("  none")
    lines += ["", f"Example: wellfit run --override {override.example} train.py"]
    if override.conflicts:
        lines.append(f"Not together with: {', '.join(override.conflicts)}")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return (
        {None: "none", True: "on", False: "off"}.get(value, f"{value}")
        if not isinstance(value, (int, float)) or isinstance(value, bool)
        else f"{value:g}"
    )
