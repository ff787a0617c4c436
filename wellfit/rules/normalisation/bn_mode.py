"""NRM802: batch norm that never ran in train mode, in a model trained from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Record, location_of
from wellfit.rule import Rule
from wellfit.rules.layering import called_models


class BnMode(Rule):
    """Batch norm is kept in eval mode while the fresh model around it trains, so that it normalises nothing.

    What it checks
        Batch norms in eval mode in all of at least `watched` watched training steps, whose scales and shifts learn, and
        were all 1 and 0 when first seen: nobody loaded them from a trained model. Their running statistics are still
        those that they were made with. A whole model left in eval mode is the rule eval-mode's business.

    Why it hurts
        In eval mode batch norm divides by running statistics and does not update them. In a fresh layer these are mean
        0 and variance 1: it does nothing but scale and shift. The deep network is trained without normalisation.

    Cure
        Leave batch norm in train mode. Putting it into eval mode is for fine-tuning a model with statistics that were
        learned before.

    Fix safety
        Unsafe: the model learns something else, what was meant.

    When it is wrong
        Pretrained statistics that were loaded without their scales and shifts.

    References
        Ioffe and Szegedy 2015, "Batch normalization", algorithm 2; PyTorch documentation of BatchNorm2d.
    """

    code = "NRM802"
    name = "bn-mode"
    family = "normalisation"
    summary = "fresh batch norm kept in eval mode: it normalises nothing"
    reads = ("event.forward-mode", "event.mode", "parameter.initial")
    consequences = (
        "eval-mode",
        "plateau",
        "vanishing",
        "exploding",
        "init-gain",
        "diverged",
        "lr-high",
        "dead-units",
        "saturated",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "overfit",
        "label-noise",
    )
    fixes = (Fix("Leave batch norm in train mode", override="mode=correct"),)

    watched: int = 10  # watched training steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()
        )
        model.append(nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _epoch in range(3):
            model.train()
            for layer in model:
                if isinstance(layer, nn.BatchNorm1d):
                    layer.eval()
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(
            nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()
        )
        model.append(nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for epoch in range(4):
            model.train()
            if epoch == 2:  # what was learned so far is kept, as in fine-tuning
                for parameter in model[:3].parameters():
                    parameter.requires_grad = False
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        events = record.events("forward-mode")
        met = {name for event in events for name in event["training_layers"] if isinstance(name, str)}
        met |= set(record.subjects("norm"))  # measured in train mode only
        since = _eval_since(events)
        off = [
            layer
            for layer in record.layers.values()
            if layer.name in since and layer.name not in met and _is_fresh_batch_norm(record, layer)
        ]
        if not off:
            return
        start = min(since[layer.name] for layer in off)
        seen = int(np.count_nonzero(record.watched_steps >= start))
        if seen < self.watched or _left_in_eval_as_a_whole(record, events, start):
            return
        yield self.finding(
            f"batch norm `{off[0].name}`{f' and {len(off) - 1} more' if len(off) > 1 else ''} was in eval mode in all "
            f"training steps seen, though scale and shift were fresh (1 and 0) and learn: its running statistics are "
            "still mean 0 and variance 1, so nothing is normalised; leave batch norm in train mode unless its "
            "statistics come from a trained model",
            severity="error", step=start, layer=off[0].name, location=_eval_call(record, off) or off[0].location,
            evidence={"layers": [layer.name for layer in off[:10]], "steps": record.step_count, "watched": seen},
            sure=record.finished,
        )  # fmt: skip


def _eval_since(events: list[dict[str, Any]]) -> dict[str, int]:
    """By name of a dropout or norm layer, the first step in which it was met in eval mode."""
    since: dict[str, int] = {}
    for event in events:
        for name in event["eval_layers"]:
            if isinstance(name, str):
                since.setdefault(name, event["step"])
    return since


def _is_fresh_batch_norm(record: Record, layer: Layer) -> bool:
    """Whether its scale and shift learn and were as torch makes them."""
    if "BatchNorm" not in layer.class_name or not layer.attributes.get("track_running_stats", True):
        return False
    known = [record.parameters[name] for name in layer.parameters if name in record.parameters]
    return len(known) == 2 and all(
        one.requires_grad and one.optimizer is not None and one.initial.std == 0 and one.initial.rms in (0.0, 1.0)
        for one in known
    )


def _left_in_eval_as_a_whole(record: Record, events: list[dict[str, Any]], start: int) -> bool:
    """Whether `model.eval()` was called before, and every dropout and norm was in eval mode."""
    on = any(event["training_layers"] for event in events if event["step"] <= start)
    roots = called_models(record)
    calls = [event for event in record.events("mode") if event["root"] in roots and event["step"] <= start]
    return not on and any(not event["training"] for event in calls)


def _eval_call(record: Record, off: list[Layer]) -> Location | None:
    """The line that puts these layers into eval mode, by name or, before they have one, by class."""
    names = {name for layer in off for name in (layer.name, layer.class_name)}
    places = [location_of(e) for e in record.events("mode") if not e["training"] and e["root"] in names]
    return next((place for place in places if place is not None), None)
