"""Gradients of earlier steps that were never cleared."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.rule import Rule
from wellfit.rules.layering import first_backward
from wellfit.rules.loop_order import optimizer_steps, site_of


class StaleGrad(Rule):
    """An optimizer steps with a gradient to which backward was only ever added.

    What it checks
        After a step the same gradient tensor was added to without having been cleared, and its old value was really
        there (seen once by its values). At least `fewest` times and in at least `share` of the optimizer's steps.
        Accumulation before a step is something else and is not meant.

    Why it hurts
        Each step uses the sum of all gradients so far: steps get longer and longer in directions that are out of date,
        the loss swings, units die, the run diverges. With Adam it is hard to see and only learns worse.

    Cure
        Call `optimizer.zero_grad()` once for each step, before backward. With several optimizers (a GAN) each needs
        its own.

    Fix safety
        What the program means changes: it was not meant. Learning rates tuned with the error may have to be tuned anew.

    When it is wrong
        A loop that keeps a running sum of gradients on purpose.

    References
        PyTorch documentation, torch.optim.Optimizer.zero_grad.
    """

    code = "GRD406"
    name = "stale-grad"
    family = "backward"
    summary = "gradients are never cleared: zero_grad is missing"
    reads = ("event.stale-gradient", "pattern")
    consequences = (
        "lr-high",
        "exploding",
        "diverged",
        "dead-units",
        "saturated",
        "plateau",
        "non-finite-forward",
        "non-finite-grad",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "vanishing",
        "zero-grad-param",
        "label-noise",
    )
    fixes = (Fix("Clear the gradient after each step", override="zero-grad=insert"),)

    fewest: int = 3  # steps with an old gradient
    share: float = 0.4  # of the optimizer's steps; a loop without zero_grad has all but the first

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
        for step in range(80):
            loss = nn.functional.cross_entropy(model(x), y) / 2
            loss.backward()
            if step % 2:
                optimizer.step()
                optimizer.zero_grad()

    def check(self, record: Record) -> Iterator[Finding]:
        last = {e["optimizer"]: e for e in record.events("stale-gradient") if isinstance(e["optimizer"], int)}
        for id, event in last.items():
            events = [e for e in record.events("stale-gradient") if e["optimizer"] == id]
            steps = optimizer_steps(record, id)
            followed = event["followed"] or steps
            # One event may be counted for each parameter that is followed; written are 1 .. 5 and then the doublings.
            stale = len({e["step"] for e in events})
            if not any(e["confirmed"] for e in events) or event["count"] < self.fewest or stale < 2:
                continue
            if 2 * event["count"] < self.share * followed:
                continue
            optimizer = record.optimizers.get(id)
            which = f"of optimizer {id} ({optimizer.class_name}) " if optimizer and len(record.optimizers) > 1 else ""
            yield self.finding(
                f"the gradients {which}are never cleared: each step uses the sum of all gradients before it, as "
                f"`{event['parameter'] or 'its first parameter'}` shows since step {events[0]['step']}; call "
                "zero_grad() before this backward",
                severity="error",
                step=events[0]["step"],
                layer=event["parameter"] or None,
                location=first_backward(record, site_of(record, id)) or (optimizer.location if optimizer else None),
                evidence={"stale_steps_at_least": event["count"], "steps": steps, "optimizer": id},
                sure=record.finished or event["count"] >= 4,
            )
