"""One step of a plan: a layer, a method, and how strong it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean

Strength = float | int | str | tuple[int, ...] | None


@dataclass(frozen=True)
class Method:
    """What a method wants as its strength.

    Args:
        place: steps on one layer come in this order.
        wanted: the strength, in words.
        fits: whether a value is one.
        shown: the step as a table tells it, with the strength in place of {}.
        meaning: for those who read the table for the first time.
    """

    place: int
    wanted: str
    fits: Callable[[Any], bool]
    shown: str
    meaning: str


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1


def _is_count(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_ranks(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(rank) is int and rank > 0 for rank in value)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "fold": Method(
            0,
            'the name of the batch norm, such as "bn1"',
            lambda v: isinstance(v, str),
            "fold {}",
            "the batch norm behind it is worked into its weights: nothing is lost",
        ),
        "cut": Method(
            1,
            "a share of its channels between 0 and 1",
            _is_share,
            "cut {:.0%}",
            "so many of its channels go, the weakest, and with them a part of the layers that read them",
        ),
        "svd": Method(
            2,
            "a rank, a whole number from 1",
            _is_count(1, 1 << 30),
            "svd rank {}",
            "a product of two narrow matrices in place of one",
        ),
        "tucker": Method(
            2,
            "two ranks, such as [8, 16]",
            _is_ranks,
            "tucker {0[0]}, {0[1]}",
            "three narrow convolutions in place of one",
        ),
        "cp": Method(
            2,
            "a rank, a whole number from 1",
            _is_count(1, 1 << 30),
            "cp rank {}",
            "four thin convolutions in place of one",
        ),
        "int8": Method(
            3,
            "no strength, null",
            lambda v: v is None,
            "int8",
            "weights of 8 bits, and 8-bit kernels that compute with them",
        ),
        "prune": Method(
            4,
            "a share of its weights between 0 and 1",
            _is_share,
            "prune {:.0%}",
            "so many of its weights are 0, the smallest",
        ),
        "share": Method(
            5,
            "a number of values from 1 to 4096",
            _is_count(1, 4096),
            "share {}",
            "its weights have only so many different values besides 0",
        ),
        "grid": Method(
            5,
            "bits, a whole number from 2 to 12",
            _is_count(2, 12),
            "grid {} bits",
            "its weights are whole numbers of so many bits, times a scale for each filter",
        ),
        "round": Method(
            6,
            '"bf16" or "fp16"',
            lambda v: v in ("bf16", "fp16"),
            "{}",
            "its numbers are rounded to that type; they take fewer bytes in the file, and are computed as before",
        ),
    }
)
"""All methods that need no training."""

VALUES = ("prune", "share", "grid", "round")
"""Those that change values only, neither shapes nor the program."""


@dataclass(frozen=True)
class Step:
    """A method for a layer.

    Args:
        layer: its name, as in `model.named_modules()`; for `cut` that of the layer that makes the channels.
        method: of `METHODS`.
        strength: as the method wants it.
    """

    layer: str
    method: str
    strength: Strength = None

    def __str__(self) -> str:
        return METHODS[self.method].shown.format(self.strength)


def checked_steps(entries: Any) -> tuple[Step, ...]:
    """Steps as they were read from JSON that people edit.

    Raises:
        WellfitError: something is wrong with one; says which, what was expected and what came.
    """
    if not isinstance(entries, list):
        raise WellfitError('"steps" is to be a list of steps, each with a layer, a method and a strength')
    steps = [_step(entry, f"step {number}") for number, entry in enumerate(entries, 1)]
    last: dict[str, Step] = {}
    for number, step in enumerate(steps, 1):
        before = last.get(step.layer)
        if before is not None and METHODS[before.method].place >= METHODS[step.method].place:
            what = "two steps of one kind" if before.method == step.method else f"{step.method} after {before.method}"
            raise WellfitError(f"step {number}: {what} on {step.layer or 'the model itself'}: {_order(before, step)}")
        last[step.layer] = step
    return tuple(steps)


def _order(before: Step, step: Step) -> str:
    if METHODS[before.method].place == METHODS[step.method].place:
        return "leave one of them out"
    return f"put {step.method} before {before.method}, which it would undo"


def _step(entry: Any, where: str) -> Step:
    if not isinstance(entry, dict):
        raise WellfitError(f"{where}: an object with layer, method and strength was expected, not {_short(entry)}")
    known = ("layer", "method", "strength")
    for key in entry:
        if key not in known:
            raise WellfitError(f"{where}: there is no field {_short(key)}{did_you_mean(key, known)}")
    for key in ("layer", "method"):
        if key not in entry:
            raise WellfitError(f'{where}: the field "{key}" is missing')
        if not isinstance(entry[key], str):
            raise WellfitError(f'{where}: "{key}" is to be text, not {_short(entry[key])}')
    method = METHODS.get(entry["method"])
    if method is None:
        raise WellfitError(f"{where}: {unknown_method(entry['method'])}")
    strength = entry.get("strength")
    strength = tuple(strength) if isinstance(strength, list) else strength
    if not method.fits(strength):
        raise WellfitError(
            f"{where}: {entry['method']} of {entry['layer'] or 'the model itself'} wants {method.wanted}, "
            f"not {_short(entry.get('strength'))}"
        )
    return Step(entry["layer"], entry["method"], strength)


def unknown_method(name: str) -> str:
    """The sentence for a method that there is not."""
    return f'there is no method "{_short(name)}"{did_you_mean(name, METHODS)}; there are {", ".join(METHODS)}'


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
