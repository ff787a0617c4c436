"""Every method that makes another structure, by its name and one strength: for whoever tries one after the other."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean
from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.cp import Cp
from wellfit.slim.changes.svd import Svd
from wellfit.slim.changes.tucker import Tucker
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods import factor
from wellfit.slim.methods.checked import copy_of, said
from wellfit.slim.methods.fold import folds
from wellfit.slim.methods.heads import heads
from wellfit.slim.methods.layers import droppable
from wellfit.slim.methods.proposal import Proposal
from wellfit.slim.methods.quantise import quantise
from wellfit.slim.methods.rewrite import rewrite
from wellfit.slim.methods.structured import prune
from wellfit.slim.methods.trial import given_to, tried

MULTIPLE = 4
"""Of each group of channels a multiple of so many is kept: the vector units of processors take them together."""

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SHAPES = "it gives another shape than it gets"
_OTHERS = "another method is for layers of its kind"

_OTHER_KIND = re.compile(r"(\w+: )?it is \w+, not [\w ,]+$")  # as changes have it: "it is Linear, not Conv2d"
_SHOWN = 3  # reasons

_SECONDS = 0.1  # to time a layer beside what would take its place
_SAMPLES = 32  # that the checks of a cut go through
_MANY = 256  # by which layers are judged


@dataclass(frozen=True)
class Given:
    """What a method works on.

    Args:
        model: is not changed.
        inputs: an example.
        batch: samples in a call, when time counts.
        strength: in 0..1, how much is taken away: 0.75 leaves a quarter.
        by: importance of channels and heads, see `importance`.
    """

    model: nn.Module
    inputs: Inputs
    batch: int
    strength: float
    by: str = "magnitude"

    @property
    def timed(self) -> Inputs:
        """As many samples as count."""
        return self.inputs.resized(self.batch)

    @property
    def checked(self) -> Inputs:
        """As many as checks need: one alone has no batch statistics."""
        return self.inputs.resized(min(_SAMPLES, max(2, self.inputs.batch)))


@dataclass(frozen=True)
class Done:
    """What a method did.

    Args:
        model: a changed copy.
        changes: in their order.
        skipped: by layer or group, why it stayed as it was.
    """

    model: nn.Module
    changes: tuple[Change, ...]
    skipped: Mapping[str, str]


def done(names: str, given: Given) -> Done:
    """One method, or several joined by "+", each on what the one before made.

    Raises:
        Unfit: nothing could be changed, or the model cannot be copied or followed.
        WellfitError: there is no such method.
    """
    try:
        model = copy_of(given.model)
    except Exception as error:
        raise Unfit(f"the model cannot be copied: {said(error)}") from error
    changes: list[Change] = []
    skipped: dict[str, str] = {}
    for name in names.split("+"):
        if name not in METHODS:
            raise WellfitError(f'there is no method "{name}"{did_you_mean(name, METHODS)}; it has {", ".join(METHODS)}')
        wanted, left = METHODS[name](replace(given, model=model))
        skipped |= left
        made = 0
        for change in wanted:
            try:
                change.apply(model)
            except Unfit as error:  # what it is about went with a change before it
                skipped[getattr(change, "layer", name)] = str(error)
                continue
            changes.append(change)
            made += 1
        if not made:
            raise Unfit(_why_nothing(skipped))
    return Done(model, tuple(changes), skipped)


Found = tuple[tuple[Change, ...], dict[str, str]]


def _structured(given: Given) -> Found:
    few = given.checked
    with _gradients(given, few):
        cuts = prune(given.model, few, given.strength, by=given.by, scope="layer", multiple=MULTIPLE)
    return ((cuts.cut,) if cuts.cut is not None else ()), dict(cuts.skipped)


def _heads(given: Given) -> Found:
    few = given.checked
    with _gradients(given, few):
        found = heads(given.model, few, given.strength, by=given.by)
    return found.changes, dict(found.skipped)


def _drop(given: Given) -> Found:
    found = droppable(given.model, given.inputs.resized(min(_MANY, max(2, given.inputs.batch))))
    layers = [one for one in found.layers if not isinstance(given.model.get_submodule(one.change.layer), _NORMS)]
    names = [one.change.layer for one in layers]
    outer = [one for one in layers if not any(one.change.layer.startswith(f"{name}.") for name in names)]
    skipped = {name: _SHAPES if why.startswith("it gets ") else why for name, why in found.skipped.items()}
    return tuple(one.change for one in outer[: max(1, round(given.strength * len(outer)))]), skipped


def _factored(kind: type[Change], convs: str = "tucker") -> Callable[[Given], Found]:
    def make(given: Given) -> Found:
        found = factor.by_share(given.model, 1 - given.strength, convs=convs)
        return _faster_ones(given, found, kind)

    return make


def _rewritten(form: str) -> Callable[[Given], Found]:
    def make(given: Given) -> Found:
        strengths = {
            "separable": None,
            "grouped": round(1 / max(0.01, 1 - given.strength)),
            "reduced": 1 - given.strength,
        }
        return _faster_ones(given, rewrite(given.model, form, strength=strengths[form]), Change)

    return make


def _fold(given: Given) -> Found:
    found = folds(given.model, given.checked)
    return found.changes, dict(found.skipped)


def _int8(given: Given) -> Found:
    found = quantise(given.model, given.timed, kinds=("int8",), seconds=_SECONDS)
    return found.changes, dict(found.skipped)


METHODS: dict[str, Callable[[Given], Found]] = {
    "structured": _structured, "heads": _heads, "drop": _drop, "svd": _factored(Svd), "tucker": _factored(Tucker),
    "cp": _factored(Cp, "cp"), "separable": _rewritten("separable"), "grouped": _rewritten("grouped"),
    "reduced": _rewritten("reduced"), "fold": _fold, "int8": _int8,
}  # fmt: skip
"""By name; `structured` cuts channels."""


def _faster_ones(given: Given, found: Proposal, kind: type[Change]) -> Found:
    """The changes of one kind whose layer, timed by itself, is not slower for it."""
    skipped = dict(found.skipped)
    wanted: list[Any] = []
    for change in found.changes:
        if isinstance(change, kind):
            wanted.append(change)
        else:
            skipped[getattr(change, "layer", "")] = _OTHERS
    called = given_to(given.model, given.timed, [change.layer for change in wanted])
    kept: list[Change] = []
    for change in wanted:
        try:
            if change.layer not in called:
                raise Unfit("it is not called in a forward pass")
            trial = tried(given.model.get_submodule(change.layer), change, called[change.layer], seconds=_SECONDS)
            if trial.speedup < 1:
                raise Unfit(f"it would be {trial.speedup:.2f} times as fast here")
            kept.append(change)
        except Unfit as error:
            skipped[change.layer] = str(error)
    return tuple(kept), skipped


@contextlib.contextmanager
def _gradients(given: Given, inputs: Inputs) -> Iterator[None]:
    """Gradients for "taylor": without labels, of the loss that the model has on its own first choices; of the squared
    outputs where these are no scores."""
    if given.by != "taylor":
        yield
        return
    given.model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        answer = inputs.copied().call(given.model.eval())
        first = answer if isinstance(answer, torch.Tensor) else next(iter(answer))
        is_scores = first.dim() >= 2 and first.shape[1] > 1
        loss = nn.functional.cross_entropy(first, first.argmax(1)) if is_scores else first.square().mean()
        loss.backward()
    try:
        yield
    finally:
        given.model.zero_grad(set_to_none=True)


def _why_nothing(skipped: Mapping[str, str]) -> str:
    """The reasons, each with the layers that it holds for, but those of layers that are none of the method's kind."""
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        if why != _OTHERS and not _OTHER_KIND.match(why):
            reasons.setdefault(why, []).append(name)
    shown = []
    for why, names in list(reasons.items())[:_SHOWN]:
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        shown.append(f"{', '.join(names[:2])}{more}: {why}")
    if len(reasons) > _SHOWN:
        shown.append(f"and {len(reasons) - _SHOWN} more reasons")
    return "; ".join(shown) or "there is no layer that it fits"
