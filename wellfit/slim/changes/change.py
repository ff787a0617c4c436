"""The anatomy of a change of a module tree, and lists of changes as JSON. One file a change, in this folder."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean

if TYPE_CHECKING:
    from torch import nn


class Unfit(WellfitError):
    """A change that cannot be made to this model, and why; the model is as it was."""


@dataclass(frozen=True)
class Change:
    """Base class: subclass it as a frozen dataclass in a file of this folder, and give it a `name`.

    Fields are what JSON can hold: text, numbers, switches, None, and tuples of these; lists become tuples when they
    are read. Torch may be imported inside methods only: whoever reads a list of changes need not have it.

    Class fields:
        name: one word, as in the file.
    """

    name: ClassVar[str]

    def apply(self, model: nn.Module) -> None:
        """Change the tree and the weights of a live model, which goes on as an ordinary module: it runs, trains and
        gives a state_dict.

        Raises:
            Unfit: it cannot be made; the model is as it was.
        """
        raise NotImplementedError

    def redo(self, model: nn.Module) -> None:
        """Make the modules and shapes only, on a fresh instance of the user's class: a state_dict of the changed model
        loads then. What the weights are before that does not matter.

        Raises:
            Unfit: the model is not of the kind that was changed.
        """
        raise NotImplementedError

    def stored(self) -> Change:
        """The change as a file needs it, as short as can be: its `redo` does the same, its `apply` may not."""
        return self


def as_json(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Changes as plain dictionaries: the field "change" holds the name, the others those of the dataclass.

    Fields that have their default value are left out.
    """
    return [{"change": change.name, **_fields_of(change)} for change in changes]


def from_json(entries: Sequence[Mapping[str, Any]]) -> list[Change]:
    """The changes of `as_json`, from text that anyone may have written.

    Raises:
        WellfitError: no list of dictionaries, an unknown name or field, one that is missing, or a value of
            another type.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise WellfitError(f"a list of changes was expected, not {_short(entries)}")
    return [_change_of(entry, position) for position, entry in enumerate(entries)]


def redo_all(model: nn.Module, changes: Iterable[Change]) -> None:
    """Make the modules and shapes of all changes, in their order, on a fresh instance of the user's class.

    Raises:
        Unfit: a change does not fit the model: its class is another one than when it was changed.
    """
    for change in changes:
        change.redo(model)


@cache
def known_changes() -> Mapping[str, type[Change]]:
    """All changes by their names: the classes in the files of this folder that do not begin with an underscore."""
    found: dict[str, type[Change]] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.name.startswith("_"):
            continue
        module = import_module(f"{__package__}.{file.stem}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Change) and "name" in vars(value):
                found[value.name] = value
    return types.MappingProxyType(found)


def _fields_of(change: Change) -> dict[str, Any]:
    return {
        field.name: value
        for field in dataclasses.fields(change)
        if (value := getattr(change, field.name)) != field.default
    }


def _change_of(entry: Any, position: int) -> Change:
    """One change.

    Raises:
        WellfitError: as in `from_json`.
    """
    if not isinstance(entry, Mapping) or not isinstance(name := entry.get("change"), str):
        raise WellfitError(
            f'change {position}: a dictionary with its name in "change" was expected, not {_short(entry)}'
        )
    kind = known_changes().get(name)
    if kind is None:
        raise WellfitError(
            f'change {position}: there is no change "{_short(name)}"{did_you_mean(name, known_changes())}'
        )
    types_of = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "change":
            continue
        if key not in fields:
            raise WellfitError(f'change {position}, {name}: there is no field "{_short(key)}"')
        values[key] = _value_of(value, types_of[key], f"change {position}, {name}.{key}")
    for field in fields.values():
        if field.name not in values and field.default is dataclasses.MISSING:
            raise WellfitError(f'change {position}, {name}: the field "{field.name}" is missing')
    return kind(**values)


def _value_of(value: Any, kind: Any, where: str) -> Any:
    """A JSON value as one of an annotated type: lists as tuples.

    Raises:
        WellfitError: it is of another type.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for part in parts:
            try:
                return _value_of(value, part, where)
            except WellfitError:
                continue
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            if len(parts) == 2 and parts[1] is Ellipsis:
                return tuple(_value_of(item, parts[0], where) for item in value)
            if len(parts) == len(value):
                return tuple(_value_of(item, part, where) for item, part in zip(value, parts))
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    raise WellfitError(f"{where}: {_spoken(kind)} was expected, not {_short(value)}")


def _spoken(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)


def _short(value: Any) -> str:
    """What a stranger's file holds, in short."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
