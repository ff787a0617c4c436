"""What the user's names say of the data that a model is evaluated on: held out, or what it was trained on.

The program's text is read with `ast`, never run; what it does not say plainly is unknown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from wellfit.finding import Location
from wellfit.record import Record, location_of
from wellfit.source import Source, called, source_of

Role = Literal["held out", "training"]

_KIND = (
    r"(set|data|dataset|loader|dl|ds|iter|gen|batch|batches|idx|index|indices|x|y|images|inputs|features|samples)?s?"
)
_HELD = re.compile(rf"[xy]?(val|valid|validation|test|tst|te|dev|eval|heldout|holdout|held|unseen){_KIND}")
_TRAIN = re.compile(rf"[xy]?(train|training|trn|tr|fit){_KIND}")
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DEPTH = 6  # assignments and calls followed from the call of the model
_SITES = 20  # calls of one function that are looked at


@dataclass(frozen=True)
class Evaluated:
    """What a place of evaluation gives to a model.

    Args:
        role: what all names say that lead there; None if they say nothing, or not the same.
        location: where the data with the telling name is made, else the place itself.
    """

    role: Role | None
    location: Location | None


def evaluated_on(record: Record, root: str) -> list[Evaluated]:
    """What a model is evaluated on, for each line that calls it without gradient."""
    places = {location_of(event) for event in record.events("evaluation") if event["root"] == root}
    return [_at(place, root) if place is not None else Evaluated(None, None) for place in places]


def all_held_out(given: Sequence[Evaluated]) -> bool:
    """Whether a model is evaluated, and on nothing but data that are held out by their names."""
    return bool(given) and all(one.role == "held out" for one in given)


def first_place(given: Sequence[Evaluated]) -> Location | None:
    """The place with the lowest line, as far as places are known."""
    places = [one.location for one in given if one.location is not None]
    return min(places, key=lambda place: place.line, default=None)


def named_target(loss: Location | None) -> Location | None:
    """Where the target of a loss is made, if names say that it is of training or held out; else None."""
    program = _program(loss) if loss is not None else None
    if program is None or loss is None:
        return None
    for value in program.targets(loss.line):
        role, line = program.follow(value, loss.line)
        if role is not None:
            return Location(loss.file, line)
    return None


def role_of_name(name: str) -> Role | None:
    """What one name says: "x_test", "valLoader" and "Xte" are held out."""
    parts = [part.lower() for part in _PARTS.findall(name)]
    held = any(_HELD.fullmatch(part) for part in parts)
    train = any(_TRAIN.fullmatch(part) for part in parts)
    return None if held == train else "held out" if held else "training"


def _at(place: Location, root: str) -> Evaluated:
    program = _program(place)
    if program is None:
        return Evaluated(None, place)
    given = program.given_to(root, place.line)
    found = [program.follow(value, place.line) for value in given]
    roles = {role for role, _ in found}
    if len(roles) != 1:
        return Evaluated(None, place)
    role, line = found[0]
    return Evaluated(role, Location(place.file, line))


class _Program:
    """One file, with the scope of each of its names."""

    def __init__(self, tree: ast.AST) -> None:
        self._above: dict[ast.AST, ast.AST] = {}
        self._calls: list[ast.Call] = []
        self._made: dict[str, list[tuple[int, ast.expr, ast.AST | None]]] = {}
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                self._above[child] = node
            if isinstance(node, ast.Call):
                self._calls.append(node)
        for node in ast.walk(tree):
            for target, value in _bindings(node):
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        self._made.setdefault(name.id, []).append((name.lineno, value, self._function(node)))

    def given_to(self, root: str, line: int) -> list[ast.expr]:
        """The first arguments of the calls in a line that may be calls of this model."""
        here = [call for call in self._calls if call.lineno <= line <= (call.end_lineno or call.lineno) and call.args]
        name = root.rpartition(".")[2]
        exact = [call for call in here if called(call) == name]
        innermost = [call for call in here if not any(other is not call and other in ast.walk(call) for other in here)]
        return [call.args[0] for call in exact or innermost]

    def targets(self, line: int) -> list[ast.expr]:
        """The second arguments of the calls in a line."""
        here = [call for call in self._calls if call.lineno <= line <= (call.end_lineno or call.lineno)]
        return [call.args[1] for call in here if len(call.args) > 1]

    def follow(self, value: ast.expr, line: int) -> tuple[Role | None, int]:
        """What the names in an expression say, or those in what they were made of; and the line that made it."""
        values: list[ast.expr] = [value]
        for _ in range(_DEPTH):
            names = [name for one in values for name in _names(one)]
            roles = {role for name in names if (role := role_of_name(name)) is not None}
            if roles:
                if len(roles) > 1:
                    return None, line
                role = roles.pop()
                return role, self._line_of(next(one for one in values if any(map(role_of_name, _names(one)))), role)
            values = [made for one in values for made in self._makers(one)][:_SITES]
        return None, line

    def _line_of(self, value: ast.expr, role: Role) -> int:
        """The line that made the data, followed back as long as its name says what it is for."""
        line = value.lineno
        for _ in range(_DEPTH):
            names = [node for node in ast.walk(value) if isinstance(node, ast.Name) and role_of_name(node.id) == role]
            made = self._last_made(names[0]) if names else None
            if made is None:
                break
            line, value = made
        return line

    def _makers(self, value: ast.expr) -> Iterator[ast.expr]:
        """What the variables in an expression were made of: by assignment, by a loop, by the callers of a function."""
        for node in ast.walk(value):
            if isinstance(node, ast.Name):
                made = self._last_made(node)
                if made is not None:
                    yield made[1]
                else:
                    yield from self._passed(node)

    def _last_made(self, name: ast.Name) -> tuple[int, ast.expr] | None:
        """The comprehension around a variable that binds it, else its last assignment before, in its function."""
        at: ast.AST | None = name
        while at is not None:
            for generator in getattr(at, "generators", ()):
                if any(isinstance(n, ast.Name) and n.id == name.id for n in ast.walk(generator.target)):
                    return name.lineno, generator.iter
            at = self._above.get(at)
        function = self._function(name)
        own = [made for made in self._made.get(name.id, ()) if made[2] is function and name not in ast.walk(made[1])]
        if not own and function is not None and name.id not in _parameters(function):
            own = [made for made in self._made.get(name.id, ()) if made[2] is None]
            return max(own, key=lambda made: made[0])[:2] if own else None
        before = [made for made in own if made[0] <= name.lineno]
        return max(before, key=lambda made: made[0])[:2] if before else None

    def _passed(self, name: ast.Name) -> Iterator[ast.expr]:
        """What the callers of the function around give for a parameter of this name."""
        function = self._function(name)
        if function is None or name.id not in _parameters(function):
            return
        parameters = _parameters(function)
        place = parameters.index(name.id) - (parameters[0] in ("self", "cls"))
        for call in self._calls:
            if called(call) == function.name:
                if len(call.args) > place >= 0:
                    yield call.args[place]
                yield from (word.value for word in call.keywords if word.arg == name.id)

    def _function(self, node: ast.AST) -> ast.FunctionDef | None:
        """The function that a node is in; None at the level of the file."""
        at = self._above.get(node)
        while at is not None and not isinstance(at, ast.FunctionDef):
            at = self._above.get(at)
        return at


def _bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, (ast.Tuple, ast.List)) and isinstance(node.value, (ast.Tuple, ast.List)):
                yield from zip(target.elts, node.value.elts)
            else:
                yield target, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.For):
        yield node.target, node.iter


def _names(value: ast.expr) -> Iterator[str]:
    """The names, attributes and words in an expression, without those of functions and what methods are given."""
    waiting: list[ast.AST] = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield node.value
        elif isinstance(node, ast.Attribute):
            yield node.attr
            waiting.append(node.value)
        elif isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute) and not _is_module(node.func.value)
            # `x_test.to(device)` speaks of x_test; `torch.stack(tests)` of what it is given.
            if method and isinstance(node.func, ast.Attribute):
                waiting += [node.func.value, *(one for one in node.args if isinstance(one, ast.Constant))]
            else:
                waiting += node.args
        else:
            waiting += list(ast.iter_child_nodes(node))


def _is_module(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in ("torch", "np", "numpy", "F", "data", "nn", "random", "self")


def _parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    return [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def _program(place: Location) -> _Program | None:
    source = source_of(place.file)
    return _read(source) if source is not None else None


@lru_cache(maxsize=4)
def _read(source: Source) -> _Program | None:
    try:
        return _Program(source.tree)
    except RecursionError:
        return None
