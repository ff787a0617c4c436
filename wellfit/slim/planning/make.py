"""Making a plan: the sensitivity scan, then whole models, measured, until the best within what may be lost is found."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import device_of
from wellfit.slim.methods.checked import said
from wellfit.slim.planning.choose import Steps
from wellfit.slim.planning.judge import Evaluate, Judge
from wellfit.slim.planning.layers import layer_kinds, one_sample
from wellfit.slim.planning.options import BY_GOAL
from wellfit.slim.planning.plan import Plan, Skipped, checked_keep
from wellfit.slim.planning.scan import Progress, Scan, scan
from wellfit.slim.planning.search import Search
from wellfit.slim.planning.step import METHODS, unknown_method
from wellfit.slim.target import Target


def plan(
    model: nn.Module,
    inputs: Any,
    *,
    target: str = "size",
    keep: float = 1.0,
    methods: Sequence[str] | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Find out what can be made of a trained model without training.

    Each layer is tried alone with each method at some strengths; what does best together is measured as a whole model,
    and given up in part where it loses too much.

    Args:
        model: trained; is not changed.
        inputs: an example batch as the model gets it: a tensor, a tuple of arguments or a dictionary by name. The more
            (and the more like the real ones), the better what is lost is known without `evaluate`.
        target: "size", "latency" (of a call with one sample), or a limit: "30kB", "4x" (times smaller), "2ms".
        keep: points that may be lost of `evaluate` (see `Judge`), or of agreement with the model as it is.
        methods: only these, of `wellfit.slim.planning.step.METHODS`; by default those that suit the target.
        evaluate: `evaluate(model) -> float`, higher is better; called some ten times.
        progress: is told what is looked at, its number, and how many there are (0: nobody knows).

    Returns:
        the plan; its `met` is False where the target cannot be met, and `front` tells what can be.

    Raises:
        WellfitError: an argument is wrong, or the model fails with the inputs.
    """
    goal = Target.of(target)
    keep = checked_keep(keep)
    for name in methods or ():
        if name not in METHODS:
            raise WellfitError(unknown_method(name))
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters()):
        raise WellfitError("some parameters have no size yet: call the model once first")
    try:
        dense = copy.deepcopy(model).eval()
    except Exception as error:
        raise WellfitError(f"the model cannot be copied: {said(error)}") from error
    given = Inputs.of(inputs).to(device_of(dense))
    judge = Judge(dense, given, evaluate)
    used = list(methods) if methods is not None else list(BY_GOAL[goal.goal])
    tell = progress or (lambda what, number, count: None)
    one = one_sample(dense, given)
    if one is None and goal.is_time:
        raise WellfitError("the model does not take a batch of one sample, of which the latency is to be measured")
    with torch.random.fork_rng(devices=[]):
        found, _ = scan(dense, given, one, judge, used, goal.goal, tell)
        search = Search(dense, given, one, judge, found, goal, keep, tell)
        best = search.best()
    skipped = tuple(_skipped(dense, found, best.steps, used, methods is not None))
    return Plan(
        target, keep, best.steps, judge.measure, search.forecasts(best), skipped, best, search.dense,
        tuple(search.points.values()), search.is_met(best), inputs,
    )  # fmt: skip


def _skipped(model: nn.Module, found: Scan, steps: Steps, methods: Sequence[str], asked: bool) -> Iterator[Skipped]:
    """Layers for which nothing is done, and why; methods that were asked for by name, layer by layer."""
    done = {step.layer for step in steps} | {str(step.strength) for step in steps if step.method == "fold"}
    kinds = layer_kinds(model)
    for name, owner in found.tied.items():
        if owner not in done:
            yield Skipped(name, "", f"its weight is that of {owner or 'the model itself'}, which is left as it is")
    for (layer, method), reason in found.refused.items():
        count = kinds[layer][1] if layer in kinds else 0
        if asked and method and not any(step.layer == layer and step.method == method for step in steps):
            yield Skipped(layer, method, reason, count)
        elif layer not in done and not method:
            yield Skipped(layer, "", reason, count)
    for name, options in found.layers.items():
        if name in done or (name, "") in found.refused:
            continue
        reasons = [f"{method}: {found.refused[name, method]}" for method in methods if (name, method) in found.refused]
        if len(options) == 1:
            yield Skipped(name, "", "; ".join(reasons) or "no method fits it", kinds[name][1])
        else:
            mildest = min(options[1:], key=lambda option: option.moved)
            what = f"{mildest.steps[-1]} alone moves the outputs by {mildest.moved:.1%}"
            yield Skipped(name, "", f"it pays too little for what it moves: {what}", kinds[name][1])
