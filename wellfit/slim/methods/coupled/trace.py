"""One forward pass, watched operation by operation, with a label for each index of each axis of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.coupled.labels import Label, Labels

Axes = list[Label]

_TURNED_IN_PLACE = ("transpose", "t", "squeeze", "unsqueeze")
"""Operations whose forms in place give a tensor other axes."""


class Call:
    """One call of an operator of torch: its arguments by name, what it returned, and the labels of tensors."""

    def __init__(self, trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        self.trace, self.labels, self.result = trace, trace.labels, result
        self.name = plain_name(function)
        self.pointwise = torch.Tag.pointwise in function.tags
        declared = function._schema.arguments
        self.arguments = {entry.name: entry.default_value for entry in declared if entry.has_default_value()}
        self.arguments.update({entry.name: value for entry, value in zip(declared, args)}, **kwargs)

    def __getitem__(self, name: str) -> Any:
        """An argument; None where the operator has none of that name."""
        return self.arguments.get(name)

    def axes(self, tensor: torch.Tensor) -> Axes:
        """The labels of a tensor, one array for each axis."""
        return self.trace.axes(tensor)

    def tensors(self) -> list[torch.Tensor]:
        """All tensors among the arguments."""
        return list(tensors_in(list(self.arguments.values())))

    def unite(self, one: Label, other: Label) -> None:
        """The indices of two axes belong together, pair by pair."""
        self.labels.unite(one, other, f"{self.name} joins it with what is not cut")

    def freeze(self, labels: Label, reason: str = "") -> None:
        """They stay: what the operation does with them cannot be done with a part of them."""
        self.labels.freeze(labels, reason or f"{self.name} goes over it")

    def freeze_all(self) -> list[Axes]:
        """Everything that goes in stays; the labels of what comes out."""
        for tensor in self.tensors():
            for axis in self.axes(tensor):
                self.labels.freeze(axis, f"it goes through {self.name}, which is not understood")
        return [[self.labels.fixed(size) for size in tensor.shape] for tensor in tensors_in(self.result)]


Rule = Callable[[Call], "list[Axes]"]


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, each operation of torch is followed: what comes in has labels, so what comes out gets some.

    Args:
        rule_of: the rule for a call of an operator.
        inner: where an axis is split into two or more, labels go to the last of them, not the first.
        passed_over: for changes of shape, by their number among the calls: how many of the new axes cannot have the
            labels, since an earlier trace saw that they are taken apart (query, key and value in one axis).
    """

    def __init__(self, rule_of: Callable[[Call], Rule], inner: bool, passed_over: Mapping[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = Labels()
        self.inner = inner
        self.passed_over = passed_over
        self.taken_apart: set[int] = set()
        self._split_at: dict[int, tuple[int, Label]] = {}
        self.restated: dict[int, tuple[Label, int]] = {}
        self.seen: dict[int, int] = {}
        self.tables: set[int] = set()
        self._calls = 0
        self._rule_of = rule_of
        self._axes: dict[int, Axes] = {}
        self._alive: list[torch.Tensor] = []  # an id stands for one tensor as long as it lives

    def put(self, tensor: torch.Tensor, axes: Axes) -> None:
        """Give a tensor its labels."""
        self._axes[id(tensor)] = axes
        self._alive.append(tensor)

    def axes(self, tensor: torch.Tensor) -> Axes:
        """The labels of a tensor; one that came from nowhere is frozen."""
        self.seen.setdefault(id(tensor), len(self.seen))
        if id(tensor) not in self._axes:
            made = [self.labels.fresh(size) for size in tensor.shape]
            for axis in made:
                self.labels.freeze(axis, "it meets a tensor that is no part of the state_dict")
            self.put(tensor, made)
        return self._axes[id(tensor)]

    def restate(self, axis: Label, place: int) -> None:
        """The operation that is running sums over this axis of its first tensor: without some channels it gives another
        number, by the channels that are kept."""
        self.restated[self._calls] = (axis, place)

    def note_split(self, axis: Label) -> None:
        """The change of shape that is running had a choice, and gave its labels to this axis."""
        self._split_at[id(axis)] = (self._calls, axis)

    def note_taken_apart(self, axis: Label) -> None:
        """Indices of this axis are used one by one: the change of shape that made it should have chosen another one."""
        if id(axis) in self._split_at:
            self.taken_apart.add(self._split_at[id(axis)][0])

    @property
    def passed(self) -> int:
        """How many axes the change of shape that is running passes over."""
        return self.passed_over.get(self._calls, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator, then give its result labels."""
        self._calls += is_counted(func)
        result = func(*args, **(kwargs or {}))
        call = Call(self, func, args, kwargs or {}, result)
        results = list(tensors_in(result))
        for tensor, axes in zip(results, self._rule_of(call)(call)):
            if [len(axis) for axis in axes] != list(tensor.shape):
                axes = call.freeze_all()[0]
            if id(tensor) in self._axes and call.name not in _TURNED_IN_PLACE:  # changed in place
                for old, new in zip(self.axes(tensor), axes):
                    call.unite(old, new)
            else:
                self.put(tensor, axes)
        return result


def is_counted(function: Any) -> bool:
    """Whether a call has a number. Tensors that are held on to, as a trace does, are detached once more by torch."""
    return plain_name(function) != "detach"


def plain_name(function: Any) -> str:
    """An operator's name without its namespace, overload, and mark of a change in place: "add" for aten::add_."""
    name: str = function._schema.name.split("::")[-1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name
