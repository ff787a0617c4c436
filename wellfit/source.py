"""Where the user's file makes what it trains on: read with `ast`, never run. Missing or odd files give no answer."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from wellfit.finding import Location
from wellfit.record import Record

_LIMIT = 1_000_000  # bytes: a longer file was not written by hand
_DEPTH = 8  # names followed from the call of the model to where its data are made
_HOLDERS = {"DataLoader", "TensorDataset", "enumerate", "zip", "tqdm", "iter", "next", "Subset", "trange"}
_MOVES = {"to", "cuda", "cpu", "float", "double", "half", "view", "reshape", "unsqueeze", "squeeze", "contiguous"}

Node = TypeVar("Node", bound=ast.expr | ast.stmt)


class Made(NamedTuple):
    """One assignment of a variable.

    Args:
        line: of the variable.
        value: that is assigned.
        place: of the variable in a tuple that the value is taken apart into; None if it is the whole value.
    """

    line: int
    value: ast.expr
    place: int | None


class Source:
    """One file of the user's, parsed.

    Args:
        file: absolute path.
        text: its contents.

    Attributes:
        lines: of the text.
        tree: the parsed text, which nobody may change.
    """

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self._nodes = tuple(ast.walk(self.tree))
        self._makers: dict[str, list[Made]] = {}
        for node in self._nodes:
            for target, value in _bindings(node):
                self._bind(target, value)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._makers.setdefault(target.id, []).append(Made(target.lineno, value, None))
        elif isinstance(target, (ast.Tuple, ast.List)):
            paired = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts) else None
            for place, part in enumerate(target.elts):
                if isinstance(part, ast.Name):
                    made = Made(part.lineno, paired[place], None) if paired else Made(part.lineno, value, place)
                    self._makers.setdefault(part.id, []).append(made)
                elif paired is None:
                    self._bind(part, value)

    def line(self, number: int) -> str:
        """The text of a line, empty if there is none."""
        return self.lines[number - 1] if 1 <= number <= len(self.lines) else ""

    def nodes(self, kind: type[Node], line: int | None = None) -> list[Node]:
        """Nodes of a kind, all or those that a line is a part of."""
        found = [node for node in self._nodes if isinstance(node, kind)]
        if line is None:
            return found
        return [node for node in found if node.lineno <= line <= (node.end_lineno or node.lineno)]

    def names(self) -> set[str]:
        """All names of variables, arguments and attributes."""
        found = {node.id for node in self.nodes(ast.Name)} | {node.attr for node in self.nodes(ast.Attribute)}
        return found | {node.arg for node in self._nodes if isinstance(node, ast.arg)}

    def calls(self, names: Iterable[str]) -> Iterator[ast.Call]:
        """Calls of functions or methods of these names, in the order of the file."""
        wanted = set(names)
        found = [call for call in self.nodes(ast.Call) if called(call) in wanted]
        yield from sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def assignments(self, attribute: str) -> Iterator[ast.Assign]:
        """Assignments to an attribute (`p.requires_grad = ...`), in the order of the file."""
        found = [
            node
            for node in self.nodes(ast.Assign)
            if any(isinstance(target, ast.Attribute) and target.attr == attribute for target in node.targets)
        ]
        yield from sorted(found, key=lambda node: node.lineno)

    def made(self, name: str) -> list[Made]:
        """The assignments of a variable at any level of the file, in the order of the file."""
        return sorted(self._makers.get(name, ()), key=lambda made: made.line)

    def only_call(self, names: Iterable[str]) -> ast.Call | None:
        """The one call of any function of these names; None if there are more, or none."""
        found = list(self.calls(names))
        return found[0] if len(found) == 1 else None

    def origin(self, value: ast.expr, position: int | None = None) -> list[tuple[int, ast.expr]]:
        """The assignments that made the array behind an expression, through loops, loaders, slices and moves.

        Args:
            position: which of a pair of arrays is meant where a loader or data set holds several.
        """
        return next(reversed(self.trail(value, position)), [])

    def trail(self, value: ast.expr, position: int | None = None) -> list[list[tuple[int, ast.expr]]]:
        """For each variable on the way from an expression to where its array is made: the assignments to it.

        Args:
            position: as for `origin`.
        """
        found: list[list[tuple[int, ast.expr]]] = []
        seen: set[str] = set()
        for _ in range(_DEPTH):
            name = _variable(value, position)
            if name is None or name in seen:
                break
            seen.add(name)
            # `x = x.to(device)` changes no number: what counts is where x came from before.
            makers = [
                made
                for made in self.made(name)
                if not (_only_moves(made.value) and _variable(made.value, None) == name)
            ]
            if not makers:
                break
            found.append([(made.line, made.value) for made in makers])
            _, value, place = makers[-1]
            position = position if place is None else place
            if not _is_holder(value) and not _only_moves(value):
                break
        return found


def _bindings(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield target, node.value
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, (ast.For, ast.comprehension)):
        target = node.target
        if isinstance(node.iter, ast.Call) and called(node.iter) == "enumerate" and isinstance(target, ast.Tuple):
            target = target.elts[-1]
        yield target, node.iter


def called(call: ast.Call) -> str:
    """The last name of what is called: "normal_" of `nn.init.normal_(...)`."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_holder(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and called(value) in _HOLDERS


def _only_moves(value: ast.expr) -> bool:
    """Whether an expression hands on an array with its numbers as they are."""
    while True:
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _MOVES:
            value = value.func.value
        elif isinstance(value, ast.Subscript):
            value = value.value
        else:
            return isinstance(value, ast.Name)


def _variable(value: ast.expr, position: int | None) -> str | None:
    """The name of the variable whose array an expression hands on, or None."""
    for _ in range(_DEPTH):
        if isinstance(value, ast.Name):
            return value.id
        if isinstance(value, (ast.Subscript, ast.Attribute, ast.Starred)):
            value = value.value
        elif _is_holder(value) and isinstance(value, ast.Call) and value.args:
            several = called(value) in ("TensorDataset", "zip") and position is not None and position < len(value.args)
            value = value.args[position if several and position is not None else 0]
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _MOVES:
            value = value.func.value
        else:
            return None
    return None


def source_of(file: object) -> Source | None:
    """The user's file, parsed; None if it is missing, too large, or not Python."""
    if not isinstance(file, str) or not file.endswith(".py"):
        return None
    try:
        stamp = Path(file).stat()
    except (OSError, ValueError):
        return None
    return _parsed(file, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=16)
def _parsed(file: str, _changed: int, size: int) -> Source | None:
    try:
        path = Path(file)
        if size > _LIMIT or not path.is_file():
            return None
        return Source(file, path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def main_source(record: Record) -> Source | None:
    """The program that was started, parsed, or None."""
    return source_of(record.process.get("main_file"))


def input_origin(record: Record, root: str, argument: int = 0) -> tuple[Location | None, list[ast.expr]]:
    """Where the array that a model is called with is made (its last assignment), and all the values assigned to it.

    Args:
        root: name of the model ("net"), as the user's variable is called.
        argument: which argument of the call.
    """
    source = main_source(record)
    if source is None:
        return None, []
    for call in source.calls([root.rpartition(".")[2] or root]):
        if len(call.args) > argument:
            found = source.origin(call.args[argument])
            if found:
                return Location(source.file, found[-1][0]), [value for _, value in found]
    return None, []


def target_origin(loss: Location | None) -> tuple[Location | None, list[tuple[int, ast.expr]]]:
    """Where the target given to a loss is made, and all the assignments to it, last one last."""
    source = source_of(loss.file) if loss is not None else None
    if source is None or loss is None:
        return None, []
    for call in source.nodes(ast.Call, loss.line):
        found = source.origin(call.args[1]) if len(call.args) >= 2 else []
        if found:
            return Location(source.file, found[-1][0]), found
    return None, []


def applied_at(record: Record, layer: str | None, call: Location | None) -> Location | None:
    """The line to change for a layer: where `self.softmax(x)` is called by name, else where the layer is made.

    Args:
        layer: name of a module, or None for a function that was called.
        call: the user's line that ran it.
    """
    made = record.layers.get(layer) if layer is not None else None
    if made is None or made.location is None or made.kind in ("container", "other"):
        return call or (made.location if made is not None else None)
    if call is None:
        return made.location
    name = made.name.rpartition(".")[2]
    source = source_of(call.file)
    if source is None:
        return made.location if name.isdigit() else call
    return call if not name.isdigit() and f"{name}(" in source.line(call.line) else made.location


def leaf_made(backward: Location | None) -> Location | None:
    """The last line before a call of backward that makes its tensor one that requires gradient, without history.

    Args:
        backward: the line that calls it, as `loss.backward()`.
    """
    source = source_of(backward.file) if backward is not None else None
    if source is None or backward is None:
        return None
    receivers = {
        call.func.value.id
        for call in source.nodes(ast.Call, backward.line)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "backward"
        and isinstance(call.func.value, ast.Name)
    }
    lines = [
        made.line for name in receivers for made in source.made(name) if "requires_grad" in ast.unparse(made.value)
    ]  # fmt: skip
    lines += [
        assigned.lineno
        for assigned in source.assignments("requires_grad")
        for target in assigned.targets
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id in receivers
    ]
    before = [line for line in lines if line <= backward.line]
    return Location(backward.file, max(before)) if before else None


def step_after_loop(backward: Location | None) -> Location | None:
    """The line of the first optimizer step after a loop that calls backward; None if it is in the loop, or unknown.

    Args:
        backward: the line that calls it.
    """
    source = source_of(backward.file) if backward is not None else None
    if source is None or backward is None:
        return None
    loops = [node for kind in (ast.For, ast.While) for node in source.nodes(kind, backward.line)]
    if not loops:
        return None
    inner = max(loops, key=lambda loop: loop.lineno)
    # Gradients that are taken out of the way there, one for each sample or task, are put back before the step.
    if any(isinstance(node, ast.Attribute) and node.attr == "grad" for node in ast.walk(inner)):
        return None
    zeroed = {
        ast.unparse(call.func.value) for call in source.calls(["zero_grad"]) if isinstance(call.func, ast.Attribute)
    }
    steps = [
        call.lineno
        for call in source.calls(["step"])
        if isinstance(call.func, ast.Attribute)
        and zeroed & {ast.unparse(call.func.value), *(ast.unparse(argument) for argument in call.args)}
    ]
    if any(inner.lineno <= line <= (inner.end_lineno or inner.lineno) for line in steps):
        return None
    after = [line for line in steps if line > (inner.end_lineno or inner.lineno)]
    return Location(backward.file, min(after)) if after else None


def init_call(record: Record, functions: Iterable[str], about: str) -> Location | None:
    """The line of the user's program that calls an initialiser (`normal_`) on weights or biases.

    Args:
        functions: names of initialisers.
        about: "weight" or "bias": calls that name the other one are passed over.
    """
    source = main_source(record)
    if source is None:
        return None
    other = "bias" if about == "weight" else "weight"
    fitting = []
    for call in source.calls(functions):
        text = ast.unparse(call)
        if other not in text:
            fitting.append((about not in text, call.lineno))
    return Location(source.file, min(fitting)[1]) if fitting else None
