"""The user's optimizers: where they were made, what they hold, what their settings are at each step."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from wellfit.probe.gradients import GradientWatch
from wellfit.probe.layers import Layers
from wellfit.probe.locate import Place, location, user_frame, user_place

HYPER = ("lr", "momentum", "weight_decay")
GROUPS = 16  # parameter groups whose settings are followed
GONE = 64  # optimizers of which it is remembered what they held


class Held:
    """An optimizer and what is known of it.

    Attributes:
        code: stands for its step in an event pattern.
        lr: learning rate of the first group as last seen.
        watches: gradients that are followed to see whether they are cleared.

    Args:
        gone: called when the optimizer is freed.
    """

    __slots__ = (
        "code", "declared", "followed", "hyper", "id", "lr", "names", "offset", "parameters", "place", "reference",
        "row_id", "size", "steps", "watches", "zero_code",
    )  # fmt: skip

    def __init__(
        self, optimizer: Any, number: int, place: Place | None, gone: Callable[[Held], None] | None = None
    ) -> None:
        self.reference = weakref.ref(optimizer, (lambda _: gone(self)) if gone else None)
        self.id = number
        self.row_id = min(number, 255)
        self.place = place
        self.code = self.zero_code = -1
        self.steps = 0
        self.followed = 0  # of them, those whose gradients were followed
        self.lr: Any = None
        self.hyper: dict[tuple[int, str], float] = {}
        self.size = -1
        self.parameters: list[torch.Tensor] = []
        self.names: list[str] = []
        self.watches: list[GradientWatch] = []
        self.declared: Any = None
        self.offset = 0


class Optimizers:
    """The registry of optimizers.

    Args:
        layers: gives the names of parameters.
        declare: writes a declaration.
        newcomer: told of an optimizer that is made, or steps for the first time.
        hyper_row: writes the new value of a hyper-parameter: (optimizer id, hyper id, value).
    """

    def __init__(
        self,
        layers: Layers,
        declare: Callable[[dict[str, Any]], None],
        hyper_row: Callable[[int, int, float], None],
        newcomer: Callable[[], None],
    ) -> None:
        self.layers = layers
        self.declare = declare
        self.hyper_row = hyper_row
        self.newcomer = newcomer
        self.made = False  # an optimizer was made or used in this process: steps are its steps
        self.known: dict[int, Held] = {}
        self._gone: list[Held] = []
        self._count = 0  # of optimizers ever seen: a new one may have the address of one that is gone
        self._births: dict[int, tuple[Any, Place | None]] = {}
        self._hyper: dict[tuple[int, int, str], int] = {}

    def born(self, optimizer: Any) -> None:
        """An optimizer's constructor ran."""
        self.made = True
        self._births[id(optimizer)] = (weakref.ref(optimizer), user_place())
        self.newcomer()

    def held(self, optimizer: Any) -> Held:
        """What is known of an optimizer."""
        held = self.known.get(id(optimizer))
        if held is None or held.reference() is not optimizer:
            birth = self._births.get(id(optimizer))
            place = birth[1] if birth is not None and birth[0]() is optimizer else None
            held = self.known[id(optimizer)] = Held(optimizer, self._count, place, self._freed)
            self._count += 1
            self.made = True  # perhaps before we came
            self.newcomer()
        return held

    def _freed(self, held: Held) -> None:
        """An optimizer is gone: keep its parameters' names, but not them alive."""
        held.parameters, held.watches = [], []
        self.known = {address: other for address, other in self.known.items() if other is not held}
        self._gone = [*self._gone, held][-GONE:]

    def holders(self) -> tuple[dict[int, int], dict[str, int]]:
        """Which optimizer holds a parameter.

        Returns:
            the ids of optimizers that are there by address of the parameter; and those of optimizers that are gone, as
            at the end of the function that trained, by its name. One that is gone counts until another takes up some of
            its parameters.
        """
        by_address: dict[int, int] = {}
        by_name: dict[str, int] = {}
        for held in sorted([*self._gone, *self.known.values()], key=lambda held: held.id):
            replaced = {by_name[name] for name in held.names if name in by_name}
            by_name = {name: number for name, number in by_name.items() if number not in replaced}
            if held.parameters:
                by_address |= {id(parameter): held.id for parameter in held.parameters}
            else:
                by_name |= dict.fromkeys(held.names, held.id)
        return by_address, by_name

    def all(self) -> Iterator[tuple[Held, Any]]:
        """Those that are still there."""
        for held in list(self.known.values()):
            optimizer = held.reference()
            if optimizer is not None:
                yield held, optimizer

    def watches(self) -> Iterator[GradientWatch]:
        """All gradients that are followed."""
        for held in list(self.known.values()):
            yield from held.watches

    def inherit(self, before: Optimizers) -> None:
        """After a fork: what was made before it."""
        self.made = before.made
        self._births = before._births

    def refresh(self, held: Held, optimizer: Any) -> None:
        """The optimizer's parameters and their names, read again when their number changed."""
        size = sum(len(group["params"]) for group in optimizer.param_groups)
        if held.size == size:
            return
        held.size = size
        held.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if not all(self.layers.knows_parameter(p) for p in held.parameters):
            self.layers.rename_parameters()
        if not all(self.layers.knows_parameter(p) for p in held.parameters):
            self.layers.search(user_frame(sys._getframe(1)))  # of a module that is used by methods of its own only
        held.names = []
        for index, parameter in enumerate(held.parameters):
            known = self.layers.parameter(parameter)
            held.names.append(known[0] if known else f"optimizer{held.id}.{index}")

    def look_again(self) -> None:
        """Parameters of optimizers may have been replaced by others, as many as before."""
        self.layers.rename_parameters()
        for held in list(self.known.values()):
            held.size = -1
            held.watches = []

    def follow(self, held: Held, optimizer: Any) -> None:
        """Write the settings that changed."""
        held.lr = optimizer.param_groups[0].get("lr") if optimizer.param_groups else None
        for index, group in enumerate(optimizer.param_groups[:GROUPS]):
            for name in HYPER:
                value = group.get(name)
                if not isinstance(value, (int, float)) or held.hyper.get((index, name)) == value:
                    continue
                held.hyper[index, name] = value
                key = (held.id, index, name)
                if key not in self._hyper:
                    self._hyper[key] = len(self._hyper)
                    self.declare(
                        {"type": "hyper", "id": self._hyper[key], "optimizer": held.id, "group": index, "name": name}
                    )
                self.hyper_row(held.id, self._hyper[key], float(value))

    def choose_watches(self, held: Held) -> None:
        """Follow the gradients of the smallest and of the last parameter that has one."""
        having = [p for p in held.parameters if p.grad is not None and p.grad.layout is torch.strided]
        if having:
            chosen = [min(having, key=lambda p: p.numel()), having[-1]]
            held.watches = [GradientWatch(p) for i, p in enumerate(chosen) if all(p is not q for q in chosen[:i])]

    def declare_all(self) -> None:
        """Every optimizer as it stands in the record, if it changed since it was last written."""
        for held, optimizer in self.all():
            self.refresh(held, optimizer)
            unknown = sum(not self.layers.knows_parameter(p) for p in held.parameters)
            now = (held.size, unknown)
            if held.declared != now:
                held.declared = now
                self.declare(
                    {
                        "type": "optimizer", "id": held.id, "class": type(optimizer).__name__,
                        "location": location(held.place), "groups": [_settings(g) for g in optimizer.param_groups],
                        "parameters": held.names, "unknown_parameters": unknown,
                    }
                )  # fmt: skip


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        key: value for key, value in group.items() if isinstance(value, (bool, int, float, str))
    }
    betas = group.get("betas")
    if isinstance(betas, (tuple, list)) and all(isinstance(beta, float) for beta in betas):
        settings["betas"] = list(betas)
    return settings
