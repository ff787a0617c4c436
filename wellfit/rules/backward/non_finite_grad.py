"""Gradients that become NaN or infinite although the loss was finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record, location_of
from wellfit.rule import Rule
from wellfit.rules.layering import first_backward

_CURES = {
    "sqrt": "its derivative is infinite at 0: add a small number under the root",
    "norm": "its derivative is undefined at 0: add a small number under the root",
    "vector_norm": "its derivative is undefined at 0: add a small number under the root",
    "pow": "its derivative is infinite at 0 for powers below 1: keep the base above 0",
    "log": "its derivative is infinite at 0: clamp its input above 0",
    "div": "its derivative is infinite where the divisor is 0: add a small number to it",
    "acos": "its derivative is infinite at 1: clamp its input inside (-1, 1)",
    "std": "its derivative is undefined where all values are equal: add a small number under the root",
}


class NonFiniteGrad(Rule):
    """A gradient, and then a weight, became NaN or infinite in backward while the loss was finite.

    What it checks
        The first gradient or weight that is not finite, and the operation of the graph whose derivative may be infinite
        where its value is finite (a root at 0). Steps that GradScaler left out do not count. It is an error if the loss
        or the weights are not finite from there on, else a note.

    Why it hurts
        The optimizer writes the NaN into the weights, and every later step is lost.

    Cure
        Keep the operation away from the point where its derivative is infinite: `sqrt(x + eps)`. Skip such steps
        if they are rare.

    Fix safety
        Skipping a step whose gradient is not finite changes nothing else.

    When it is wrong
        In half precision GradScaler meets infinite gradients now and then and skips those steps by itself.

    References
        PyTorch documentation, torch.autograd.detect_anomaly; Automatic Mixed Precision recipes.
    """

    code = "GRD405"
    name = "non-finite-grad"
    family = "backward"
    summary = "gradients became NaN or infinite though the loss was finite"
    reads = ("event.non-finite", "gradient.amax", "parameter.amax", "loss")
    consequences = ("non-finite-forward", "diverged", "plateau", "never-updated", "zero-grad-param", "scaler-thrash")
    fixes = (
        Fix("Skip steps whose gradient is not finite", safe=True),
        Fix("Add a small number under the root or to the divisor"),
    )

    grown: float = 100.0  # loss just before over the first one; above, it overflowed while the run diverged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(64, 4)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(40):
            other = x.roll(1, 0)
            if step == 10:
                other = x
            difference = model(x) - model(other)
            distance = torch.sqrt((difference**2).sum(1))
            loss = ((distance - 1) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(64, 4)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(40):
            other = x.roll(1, 0)
            if step == 10:
                other = x
            difference = model(x) - model(other)
            distance = torch.sqrt((difference**2).sum(1) + 1e-6)
            loss = ((distance - 1) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        event = self._event(record)
        if event is None:
            return
        step, parameter = event["step"], event["parameter"]
        function = event["function"] if event["where"] != "parameter" else None
        curve = record.loss()
        before = curve.value[(curve.step <= step) & np.isfinite(curve.value)]
        growth = float(np.abs(before[-5:]).max() / max(float(np.abs(before[:3]).min()), 1e-12)) if len(before) else 1.0
        if growth > self.grown:
            cure = f"the loss had grown {growth:.0e}-fold before: lower the learning rate or clip gradients"
        elif function:
            known = _CURES.get(str(function).strip("_").lower(), "keep its input inside its domain")
            cure = f"suspect `{function}`: {known}"
        else:
            cure = "look for a root, a norm or a division that meets 0, or clip gradients"
        what = f"the gradient of `{parameter}`" if event["where"] != "parameter" else f"the weight `{parameter}`"
        how_many = f" ({event['bad']} of {event['total']} parameters)" if isinstance(event.get("bad"), int) else ""
        finite = " although the loss was finite" if len(before) else ""
        yield self.finding(
            f"{what}{how_many} became {event['value'] or 'nan'} at step {step}{finite}, and a step writes it into the "
            f"weights; {cure}",
            severity="error" if self._lost(record, event) else "note",
            step=step,
            layer=event["layer"] or (record.parameters[parameter].layer if parameter in record.parameters else None),
            location=self._place(record, event, growth),
            evidence={"parameter": str(parameter), "loss_growth": growth, "function": str(function or "")},
        )

    def _event(self, record: Record) -> dict[str, Any] | None:
        """The first event of a gradient or weight; else the first gradient that was measured so."""
        events = record.events("non-finite")
        found = [e for e in events if e["where"] in ("gradient", "backward", "parameter")]
        ahead = [e for e in events if e["where"] in ("forward", "loss", "input")]
        if found:
            first = min(found, key=lambda e: e["step"])
            return first if not any(e["step"] < first["step"] for e in ahead) else None
        if ahead:
            return None
        worst: tuple[int, str] | None = None
        for name in record.subjects("gradient"):
            series = record.series("gradient", name)
            bad = series.step[~np.isfinite(series.amax)]
            if len(bad) and (worst is None or int(bad[0]) < worst[0]):
                worst = int(bad[0]), name
        if worst is None:
            return None
        return {
            "step": worst[0],
            "parameter": worst[1],
            "where": "gradient",
            "function": None,
            "layer": None,
            "value": "nan",
        }

    def _lost(self, record: Record, event: dict[str, Any]) -> bool:
        """Whether the loss, or a weight, is not finite from there on, or the program died with such a weight."""
        step = event["step"]
        if event["where"] == "parameter" and record.events("exception"):
            return True
        if any(condition(record, site).bad_step is not None for site in record.loss_sites()):
            return True
        for name in record.subjects("parameter"):
            series = record.series("parameter", name)
            later = series.amax[series.step > step]
            if len(later) and not np.isfinite(later[-1]):
                return True
        return False

    def _place(self, record: Record, event: dict[str, Any], growth: float) -> Location | None:
        optimizer = next(iter(record.optimizers.values()), None)
        if (event["where"] == "parameter" or growth > self.grown) and optimizer is not None and optimizer.location:
            return optimizer.location
        return location_of(event) or first_backward(record)
