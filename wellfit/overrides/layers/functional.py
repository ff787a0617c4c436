"""Functions that models call without a module (`F.relu`, `x.tanh()`), told apart by the place of the call.

A place is an instruction of the user's code. Where one place is both hidden and the end of the model (a loop over all
layers), the calls of one forward pass are counted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

ACTIVATION_FUNCTIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus",
    "hardtanh", "hardswish", "hardsigmoid", "softsign", "rrelu", "special_expit",
)  # fmt: skip
ACTIVATION_MODULES = {
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "RReLU": "rrelu", "ELU": "elu",
    "CELU": "celu", "SELU": "selu", "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Softplus": "softplus",
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Hardtanh": "hardtanh", "Hardsigmoid": "hardsigmoid",
    "Hardswish": "hardswish", "Softsign": "softsign",
}  # fmt: skip
DROPOUT_FUNCTIONS = ("dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep


class Site:
    """A place in code from which a function is called; `number` counts its calls in one forward pass."""

    __slots__ = ("code", "instruction", "line", "number")

    def __init__(self, code: Any, instruction: int, line: int, number: int) -> None:
        self.code = code
        self.instruction = instruction
        self.line = line
        self.number = number

    @property
    def key(self) -> tuple[int, int]:
        """The place, without the count."""
        return id(self.code), self.instruction

    def __str__(self) -> str:
        return f"{os.path.basename(self.code.co_filename)}:{self.line}"


_PASSED = tuple(os.path.join(_TORCH, *path) for path in (("overrides.py",), ("nn", "functional.py"), ("_tensor.py",)))

_counts: dict[tuple[int, int], int] = {}  # calls of each place in this forward pass
_seen: dict[tuple[int, int], int] = {}  # the same, counted by a trial


def begin_forward() -> None:
    """A forward pass of a model begins: the calls are counted from 0 again."""
    _counts.clear()
    _seen.clear()


def site_of_caller() -> Site | None:
    """The place from which a function was called; None if torch itself called it. Only in a trial: it is slow."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename in _PASSED or frame.f_code.co_filename.startswith((_OURS, "<frozen")):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    if frame.f_code.co_filename.startswith(_TORCH):
        return None
    key = id(frame.f_code), frame.f_lasti
    _seen[key] = number = _seen.get(key, -1) + 1
    return Site(frame.f_code, frame.f_lasti, frame.f_lineno, number)


class Exchanged:
    """Which calls of functions are made to another function.

    Args:
        change: takes (function, args, kwargs) and gives what is to be given back in its place.
    """

    def __init__(self, change: Callable[[Any, Any, Any], Any]) -> None:
        self.change = change
        self.asleep = False  # True: every call goes to the function that the script wrote
        self.all: dict[tuple[int, int], Any] = {}  # places where each call is exchanged; holds the code
        self.some: dict[tuple[int, int], tuple[Any, set[int]]] = {}  # places where calls of these numbers are

    def add(self, hidden: list[Site], others: list[Site]) -> None:
        """Exchange the calls at `hidden`, and not those at `others`."""
        staying = {site.key for site in others}
        for site in hidden:
            if site.key in staying:
                _, numbers = self.some.setdefault(site.key, (site.code, set()))
                numbers.add(site.number)
            else:
                self.all[site.key] = site.code

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Where what is done in here fails, the same places are exchanged as before."""
        every = dict(self.all)
        some = {key: (code, set(numbers)) for key, (code, numbers) in self.some.items()}
        try:
            yield
        except BaseException:
            for now, before in ((self.all, every), (self.some, some)):
                now.clear()  # in place: the wrappers hold them
                now.update(before)  # type: ignore[arg-type]
            raise

    def wrap(self, original: Any) -> Any:
        """A function to stand in the place of one of torch's."""
        every, some, change = self.all, self.some, self.change

        def exchanged(*args: Any, **kwargs: Any) -> Any:
            frame = sys._getframe(1)
            key = id(frame.f_code), frame.f_lasti
            if self.asleep:
                return original(*args, **kwargs)
            if key in every:
                return change(original, args, kwargs)
            if key in some:
                number = _counts[key] = _counts.get(key, -1) + 1
                if number in some[key][1]:
                    return change(original, args, kwargs)
            return original(*args, **kwargs)

        return exchanged
