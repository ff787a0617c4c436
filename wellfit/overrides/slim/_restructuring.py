"""Several smaller structures of one model, each timed beside it and written into a file."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.overrides.model._copies import own_copy
from wellfit.overrides.slim._changed import changes_of
from wellfit.overrides.slim._timing import timed
from wellfit.overrides.tree import forbid_compiled, forbid_parallel, has_lazy
from wellfit.overrides.words import in_short
from wellfit.slim.changes import from_json
from wellfit.slim.files import save
from wellfit.slim.measure import Inputs
from wellfit.slim.methods.named import METHODS, Given, done

VERSION = 1


@dataclass(frozen=True)
class Wish:
    """A structure that is to be made: methods joined by "+", and how much is taken away."""

    method: str
    strength: float


def wishes_in(text: str) -> list[Wish]:
    """What "structured=0.5;structured=0.75;fold+int8" asks for.

    Raises:
        WellfitError: a method is unknown, or a strength out of range.
    """
    found = []
    for part in filter(None, (each.strip() for each in text.split(";"))):
        names, _, told = part.partition("=")
        for name in names.split("+"):
            if name not in METHODS:
                raise WellfitError(
                    f'restructure has no method "{name[:40]}"{did_you_mean(name, METHODS)}; it has {", ".join(METHODS)}'
                )
        try:
            strength = float(told or 0.5)
        except ValueError:
            strength = -1.0
        if not 0 < strength <= 1:
            raise WellfitError(
                f'the strength in "{part[:40]}" of restructure is a number above 0 to 1, as in "svd=0.5"'
            )
        found.append(Wish(names, strength))
    if not found:
        raise WellfitError('restructure needs a method, as in --override restructure="structured=0.5"')
    return found


@dataclass(frozen=True)
class Terms:
    """How structures are made and judged.

    Args:
        by: importance.
        batch: samples in a call that count.
        seconds: to time each.
        least: speedup below which nothing is written, and weaker strengths of the method are not tried.
        deadline: as `time.monotonic` has it; nothing more is begun then.
        folder: for the files.
    """

    by: str
    batch: int
    seconds: float
    least: float
    deadline: float
    folder: str


def restructured(root: nn.Module, inputs: Inputs, wishes: Sequence[Wish], terms: Terms) -> list[dict[str, Any]]:
    """Make each of them, the strongest of each method first; what came of it, as JSON, in the order of the wishes.

    Of each: `method`, `strength`, `file` (None if none was written), `times`, `parameters`, `changes` (as texts),
    `skipped` (layer and reason) and `problem` (None if there is none).
    """
    told: dict[Wish, dict[str, Any]] = {}
    slow: dict[str, str] = {}
    known: dict[Any, Wish] = {}
    why = _obstacle(root)
    for wish in _in_turn(wishes):
        one = told[wish] = {
            "method": wish.method, "strength": wish.strength, "file": None, "times": [], "parameters": 0,
            "changes": [], "skipped": [], "problem": why or slow.get(wish.method),
        }  # fmt: skip
        if one["problem"] is None and time.monotonic() > terms.deadline:
            one["problem"] = "there was no time to try it"
        if one["problem"] is None:
            _make(root, inputs, wish, terms, one, known)
        if one["problem"] is not None and one["times"]:
            slow[wish.method] = "a stronger one is not faster"
    return [told[wish] for wish in dict.fromkeys(wishes)]


def _in_turn(wishes: Sequence[Wish]) -> list[Wish]:
    """The strongest of each method, then the second strongest of each, and so on: where time is short none is left."""
    ladders: dict[str, list[Wish]] = {}
    for wish in sorted(dict.fromkeys(wishes), key=lambda one: -one.strength):
        ladders.setdefault(wish.method, []).append(wish)
    ranks = {wish: place for ladder in ladders.values() for place, wish in enumerate(ladder)}
    return sorted(dict.fromkeys(wishes), key=lambda one: ranks[one])


def _obstacle(root: nn.Module) -> str | None:
    """Why no other structure can be made of a model."""
    try:
        forbid_compiled(root)
        forbid_parallel(root)
    except WellfitError as error:
        return str(error)
    lazy = next((name for name, module in root.named_modules() if has_lazy(module)), None)
    return f"{lazy} is lazy: its sizes are not known" if lazy is not None else None


def _make(
    root: nn.Module, inputs: Inputs, wish: Wish, terms: Terms, told: dict[str, Any], known: dict[Any, Wish]
) -> None:
    try:
        base = own_copy(root)
        made = done(wish.method, Given(base, inputs, terms.batch, wish.strength, terms.by))
        same = known.setdefault(made.changes, wish)
        if same is not wish:
            told["problem"] = f"it is the same as with {same.strength:g}"
            return
        told["skipped"] = [[name, why] for name, why in made.skipped.items()]
        told["changes"] = [type(change).__name__ for change in made.changes]
        told["parameters"] = sum(parameter.numel() for parameter in made.model.parameters())
        told["times"] = timed(base, made.model, inputs, [terms.batch], terms.seconds)
    except Exception as error:  # a model may do what it likes; the other methods go on
        told["problem"] = str(error) if isinstance(error, WellfitError) else in_short(error)
        return
    faster = told["times"][0]["speedup"]
    if faster < terms.least:
        told["problem"] = f"{faster:.2f} times as fast here with {terms.batch} in a call, not {terms.least:g}"
        return
    name = f"restructured-{wish.method}-{wish.strength:g}.wfz"
    changes = [*from_json(changes_of(root)), *(change.stored() for change in made.changes)]
    with torch.no_grad():
        told["bytes"] = save(made.model, os.path.join(terms.folder, name), changes).bytes
    told["file"] = name
