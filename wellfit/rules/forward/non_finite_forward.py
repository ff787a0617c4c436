"""Where the first NaN or infinity of a run came from, when it came in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Record, location_of
from wellfit.rule import Rule
from wellfit.rules.layering import first_backward

_CURES = {
    "sqrt": "add a small number under the root",
    "log": "clamp its input above 0, or use log_softmax or a loss on logits",
    "div": "add a small number to the divisor",
    "rsqrt": "add a small number under the root",
    "pow": "keep its base above 0",
    "exp": "subtract the largest input first, or clamp its input",
    "softmax": "see that no row is masked altogether",
    "acos": "clamp its input inside (-1, 1)",
}


class NonFiniteForward(Rule):
    """The first number of the forward pass that is NaN or infinite.

    What it checks
        The operation, in the order of execution, that was given finite numbers and gave back NaN or infinity; where
        that cannot be told, the first step whose loss is not finite. It is an error if the loss is lost for good, else
        a note.

    Why it hurts
        One NaN makes the loss NaN, then all gradients, then all weights: what was learned is gone.

    Cure
        Keep the operation inside its domain: a small number under a root or in a divisor, a clamp before a logarithm,
        log_softmax for the logarithm of a softmax. If the loss had grown for steps before, the numbers overflowed:
        lower the learning rate, clip the gradients, and scale inputs and targets.

    Fix safety
        Skipping steps whose loss is not finite leaves the program as it is; a clamp changes values at the edge only.

    When it is wrong
        Masks of minus infinity are meant; as long as the loss stays finite this is a note.

    References
        TensorBoard Debugger V2 (numeric alerts); Hugging Face, DebugUnderflowOverflow.
    """

    code = "FWD301"
    name = "non-finite-forward"
    family = "forward"
    summary = "an operation of the forward pass made the first NaN or infinity"
    reads = ("event.non-finite", "loss")
    consequences = ("non-finite-grad", "diverged", "plateau", "zero-grad-param", "never-updated", "scaler-thrash")
    fixes = (
        Fix("Skip steps whose loss is not finite", safe=True),
        Fix("Clamp the input of the operation that is named"),
    )

    grown: float = 100.0  # loss just before over the first one; above, it overflowed while the run diverged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.rand(128, 4)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for step in range(40):
            score = model(x).squeeze(1)
            weight = x[:, 0] - (x[0, 0] if step > 10 else -1.0)
            ratio = score / weight
            loss = ratio.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.rand(128, 4)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(40):
            score = model(x).squeeze(1)
            weight = x[:, 0] + 1.0
            ratio = score / weight
            loss = ratio.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        events = [e for e in record.events("non-finite") if self._ours(record, e)]
        if not events:
            if not record.events("non-finite"):
                yield from self._from_losses(record)
            return
        first = min(events, key=lambda event: event["step"])
        same_step = [e for e in events if e["step"] == first["step"] and location_of(e) is not None]
        event = next((e for e in same_step if e["inputs_finite"]), same_step[0] if same_step else first)
        function, layer = event["function"] or "an operation", event["layer"]
        inside = f" in layer `{layer}`" if layer else ""
        given = (
            "though its inputs were finite" if event["inputs_finite"] else "from inputs that were not finite already"
        )
        growth = self._growth(record, event["step"])
        if growth > self.grown:
            cure = (
                f"the loss had grown {growth:.0e}-fold before: the run diverged; lower the learning rate, scale inputs "
                "and targets, or clip gradients"
            )
        else:
            cure = _CURES.get(
                str(function).lower().strip("_"), "keep its input inside its domain, or lower the learning rate"
            )
        lost = event["died"] or self._lost(record)
        harm = "the program ended by it" if event["died"] else "from there the loss and all gradients are lost"
        yield self.finding(
            f"`{function}`{inside} gave numbers that are not finite at step {event['step']} {given}, and {harm}; "
            f"{cure}",
            severity="error" if lost else "note",
            step=event["step"],
            layer=layer,
            location=location_of(event) or first_backward(record),
            evidence={"function": str(function), "loss": str(event["value"]), "loss_growth": growth},
            fixes=self.fixes[1:] if lost else self.fixes,  # where all steps are lost, to skip them leaves none
        )

    def _ours(self, record: Record, event: dict[str, Any]) -> bool:
        """A number that went bad in forward; one that came in with the data is another rule's."""
        if event["where"] in ("forward", "loss"):
            return True
        if event["where"] != "input":
            return False
        return not any(
            len(series) and not np.isfinite(series.amax).all()
            for series in (record.series("input", subject) for subject in record.subjects("input"))
        )

    def _from_losses(self, record: Record) -> Iterator[Finding]:
        """Only the rows of the loss say it: the first site whose loss was finite once and is not any more."""
        for site in record.loss_sites():
            how = condition(record, site)
            curve = record.loss(site)
            known = np.isfinite(curve.value)
            if how.bad_step is None or not known.any() or int(curve.step[known][0]) > how.bad_step:
                continue  # a loss that never was finite may be a vector, whose value nobody took
            growth = self._growth(record, how.bad_step, site)
            yield self.finding(
                f"the loss is not finite from step {how.bad_step} on, so nothing is learned any more; "
                + (f"it had grown {growth:.0e}-fold before: lower the learning rate" if growth > self.grown else
                   "look for a division, root or logarithm that meets 0"),
                severity="error",
                step=how.bad_step,
                location=first_backward(record, site),
                evidence={"loss_growth": growth},
            )  # fmt: skip
            return

    def _growth(self, record: Record, step: int, site: int | None = None) -> float:
        """How many times larger the last finite loss before a step was than the first; 1 if it did not grow."""
        curve = record.loss(site)
        seen = np.abs(curve.value[(curve.step <= step) & np.isfinite(curve.value)])
        if len(seen) < 2:
            return 1.0
        return float(max(seen[-5:].max() / max(float(np.median(seen[:3])), 1e-12), 1.0))

    def _lost(self, record: Record) -> bool:
        return any(condition(record, site).bad_step is not None for site in record.loss_sites())
