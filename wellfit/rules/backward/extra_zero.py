"""Gradients that are cleared before the optimizer has used them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record, location_of
from wellfit.rule import Rule
from wellfit.rules.layering import first_backward
from wellfit.rules.loop_order import optimizer_steps, patterns_by_count, site_of
from wellfit.source import step_after_loop

_LONG = 200  # events of a step that a pattern holds


class ExtraZero(Rule):
    """`zero_grad` is called between backward and the step that should use its gradient.

    What it checks
        (1) Backward ran, `zero_grad` followed, and the optimizer stepped on gradients that are 0 or None. (2) In the
        accumulation of several micro-batches before one step `zero_grad` is called before each backward, so that only
        the last one counts. Either in `share` of the steps and at least `fewest` times; (2) with one optimizer only.
        From `outside` micro-batches on, where the source has step() after the loop that calls backward, that is the
        fault.

    Why it hurts
        What backward computed is thrown away: all of it, and nothing is learned; or all but the last micro-batch, and
        the batch is that much smaller and noisier than meant.

    Cure
        Call `zero_grad` once for each step, after the step or before its first backward; call step() in the loop over
        batches, not after it.

    Fix safety
        The step now uses the whole batch: a loss divided by the number of micro-batches keeps its scale.

    When it is wrong
        Loops that take each gradient out of the way by hand (one for each sample or task) and put their sum back in.

    References
        PyTorch documentation, torch.optim.Optimizer.zero_grad; gradient accumulation recipes.
    """

    code = "GRD407"
    name = "extra-zero"
    family = "backward"
    summary = "zero_grad clears gradients before the step that should use them"
    reads = ("event.gradient-cleared", "pattern")
    consequences = ("plateau", "lr-low", "never-updated", "zero-grad-param")
    fixes = (Fix("Call zero_grad once for each step, before its first backward"),)

    fewest: int = 3  # steps
    share: float = 0.5  # of the optimizer's steps
    outside: int = 20  # backward calls before a step; accumulation is over 2 to 16 as a rule

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > 0).long()
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(40):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.zero_grad()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 8)
        y = (x[:, 0] > 0).long()
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(40):
            optimizer.zero_grad()
            for part in range(4):
                rows = slice(32 * part, 32 * part + 32)
                loss = nn.functional.cross_entropy(model(x[rows]), y[rows]) / 4
                loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        cleared = {e["optimizer"]: e for e in record.events("gradient-cleared") if isinstance(e["optimizer"], int)}
        for id, event in cleared.items():
            steps = optimizer_steps(record, id)
            # The event looks at the gradients, in some steps; the order of calls is known of every step.
            clearing = sum(count for events, count in patterns_by_count(record) if _clears(events, id))
            if event["count"] < self.fewest or clearing < self.share * steps:
                continue
            held = record.optimizers[id] if len(record.optimizers) > 1 and id in record.optimizers else None
            made = f" made at line {held.location.line}" if held is not None and held.location is not None else ""
            whose = f"its {len(held.parameters)} parameters do" if held is not None else "the model does"
            yield self._said(
                f"zero_grad is called after backward and before the step, in {min(clearing, steps)} of {steps} steps: "
                f"the optimizer{made} steps on nothing and {whose} not learn; move zero_grad before backward",
                next(e["step"] for e in record.events("gradient-cleared") if e["optimizer"] == id),
                location_of(event.get("location")) or first_backward(record, site_of(record, id)),
                clearing,
                steps,
            )
            return
        yield from self._in_accumulation(record)

    def _in_accumulation(self, record: Record) -> Iterator[Finding]:
        # With a second optimizer or a second backward, clearing between them is usually meant.
        if len(record.optimizers) > 1 or len(record.loss_sites()) != 1:
            return
        thrown = 0
        parts: list[int] = []
        for events, count in patterns_by_count(record):
            lost = _thrown_away(events)
            if lost:
                thrown += count
                parts.append(lost + 1)
        steps = len(record.steps)
        if thrown < self.fewest or thrown < self.share * steps:
            return
        most = max(parts)
        called = first_backward(record)
        outer = step_after_loop(called) if most >= self.outside else None
        if outer is not None:
            yield self._said(
                f"step() stands outside of the loop that calls backward: it is called once for {most}"
                f"{' or more' if most >= 50 else ''} backward calls, each with a zero_grad before it, so only the last "
                "batch is learned from and the others are thrown away; move step() into the loop, after backward",
                self.fewest - 1,
                outer,
                thrown,
                steps,
                micro_batches=most,
            )
            return
        yield self._said(
            f"zero_grad is called before each of {most}{' or more' if most >= 50 else ''} backward calls of one step, "
            f"in {thrown} of {steps} steps: only the last micro-batch counts, the others are thrown away; call "
            "zero_grad once for each step, right after it",
            self.fewest - 1,
            called,
            thrown,
            steps,
            micro_batches=most,
        )

    def _said(
        self, message: str, step: int, location: Location | None, count: int, steps: int, **numbers: int
    ) -> Finding:
        return self.finding(
            message,
            severity="error",
            step=step,
            location=location,
            evidence={"steps_with_it": count, "steps": steps, "share": self.share, **numbers},
        )


def _clears(events: tuple[str, ...], optimizer: int) -> bool:
    """Whether the gradients of an optimizer are cleared between the last backward and its step."""
    if "backward" not in events or f"step:{optimizer}" not in events:
        return False
    own, step = (f"zero_grad:{optimizer}", "zero_grad:module"), f"step:{optimizer}"
    last = len(events) - 1 - events[::-1].index("backward")
    if step in events[last:]:
        return any(event in own for event in events[last : events.index(step, last)])
    if len(events) >= _LONG:
        return False
    # The step of another optimizer ended the one that backward belongs to: this one steps at the begin of the next.
    return own[0] in events[last:] or own[0] in events[: events.index(step)]


def _thrown_away(events: tuple[str, ...]) -> int:
    """How many backward calls of a step a zero_grad clears before another backward; 0 unless all but the last."""
    calls = [event for event in events if event == "backward" or event.startswith("zero_grad")]
    backwards = [place for place, event in enumerate(calls) if event == "backward"]
    ends = any(event.startswith("step") for event in events) or len(events) >= _LONG
    if len(backwards) < 2 or not ends:
        return 0
    between = [calls[here + 1 : there] for here, there in pairwise(backwards)]
    return len(between) if all(between) else 0
