"""Fewer bits, layer by layer: each kind is tried and timed here, and only what is faster or smaller is kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.quantised import KINDS, Quantised
from wellfit.slim.changes.torchao import CONFIGS, Torchao
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.proposal import Proposal, weighty_layers
from wellfit.slim.methods.trial import Trial, given_to, spans, tried

GOALS = ("latency", "size")


@dataclass(frozen=True)
class QuantiseProposal(Proposal):
    """A proposal, with all that was tried.

    Args:
        trials: of all layers and kinds that could be made, kept or not.
        refused: (layer, kind, reason) of those that could not, or did nothing.
    """

    trials: tuple[Trial, ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()


def quantise(
    model: nn.Module,
    inputs: Inputs,
    *,
    kinds: Sequence[str] = ("int8", "static", "bf16"),
    goal: str = "latency",
    most_error: float = 0.1,
    seconds: float = 0.2,
) -> QuantiseProposal:
    """For each layer the best of the kinds.

    Args:
        model: is not changed.
        inputs: one batch of the size that counts: activations are measured on it.
        kinds: of `Quantised`, or of torchao, as "torchao-int8-dynamic".
        goal: "latency" keeps what is at least 1.2 times as fast, the fastest; "size" what is smaller, the smallest.
        most_error: of a layer's outputs, root mean square, relative to theirs; above it a kind is refused.
        seconds: how long to time each.

    Raises:
        WellfitError: there is no such kind or goal.
    """
    known = (*KINDS, *CONFIGS)
    if goal not in GOALS or any(kind not in known for kind in kinds):
        raise WellfitError(f"kinds={list(kinds)}, goal={goal}: kinds of {known} and a goal of {GOALS} were expected")
    layers = dict(weighty_layers(model))
    given = given_to(model, inputs, layers)
    kept: list[Change] = []
    errors: dict[str, float] = {}
    skipped: dict[str, str] = {}
    trials: list[Trial] = []
    refused: list[tuple[str, str, str]] = []
    for name, layer in layers.items():
        if name not in given:
            skipped[name] = "it is not called in a forward pass"
            continue
        mine: list[Trial] = []
        for kind in kinds:
            try:
                mine.append(_tried(model, name, layer, kind, given[name], most_error, seconds))
            except Unfit as error:
                refused.append((name, kind, str(error).removeprefix(f"{name}: ")))
        trials += mine
        best = _best(mine, goal)
        if best is None:
            skipped[name] = _why(
                mine, [(kind, reason) for layer_name, kind, reason in refused if layer_name == name], goal
            )
        else:
            kept.append(best.change)
            errors[name] = best.error
    return QuantiseProposal(tuple(kept), skipped, errors, "", tuple(trials), tuple(refused))


def _tried(
    model: nn.Module, name: str, layer: nn.Module, kind: str, given: Inputs, most_error: float, seconds: float
) -> Trial:
    """One kind for one layer.

    Raises:
        Unfit: it cannot be made, does nothing, or is too far off.
    """
    change: Any = Torchao(name, kind) if kind in CONFIGS else Quantised(name, kind)
    if kind == "static":
        into, out = spans(copy.deepcopy(layer).eval(), given)
        change = Quantised(name, kind, inputs=into, outputs=out if isinstance(layer, nn.Conv2d) else None)
    change.checked(model)
    trial = tried(layer, change, given, seconds=seconds)
    if trial.idle:
        raise Unfit("the backend left it as it was, and did not say so")
    if trial.error > most_error:
        raise Unfit(f"its outputs are {trial.error:.0%} off")
    return trial


def _best(trials: Sequence[Trial], goal: str) -> Trial | None:
    if goal == "latency":
        return max((trial for trial in trials if trial.is_faster), key=lambda trial: trial.speedup, default=None)
    return min((trial for trial in trials if trial.is_smaller), key=lambda trial: trial.after, default=None)


def _why(trials: Sequence[Trial], refused: Sequence[tuple[str, str]], goal: str) -> str:
    """In one line, kind by kind."""
    parts = [f"{kind}: {reason}" for kind, reason in refused]
    for trial in trials:
        kind = getattr(trial.change, "kind", None) or getattr(trial.change, "config", "")
        if goal == "latency":
            parts.append(f"{kind}: {trial.speedup:.2f} times as fast here, not 1.2")
        else:
            parts.append(f"{kind}: {trial.after} bytes for {trial.before}")
    return "; ".join(parts)
