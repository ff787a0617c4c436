"""SLM004: the slim model lost more than it may."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix, Severity
from wellfit.proof import Figure, Proof
from wellfit.rule import Family, Rule


class SlimAccuracyLost(Rule):
    """The slim model loses more than was allowed.

    What it checks
    The metric of the model that was read from the file, against that of the dense one: more points are lost than
    `--keep-acc` (`keep`) allows. Where the spread among seeds is known and the excess lies within `spreads` of its
    standard deviations, it is noted: another seed may lose less. Where nothing was said of what may be lost, a loss
    beyond as many standard deviations is an error, and without seeds nothing is said. It is an error too where the
    file gives no finite metric.

    Why it hurts
    The file is small because it knows less.

    Cure
    Take milder steps: more weights that stay, more values, higher ranks; or none in the layers that are most sensitive,
    by the table of the plan. Or train the slim model further: `wellfit slim train.py` does that with your own script,
    and loses far less at the same size.

    Fix safety
    Milder steps make a larger file. Further training gives another model, which the same evaluation has to judge.

    When it is wrong
    An evaluation of few samples: of 200 samples one is half a point. Without an evaluation the model is only held
    against the dense one on some inputs; random ones say little about it.

    References
    Dodge et al. 2020, "Fine-Tuning Pretrained Language Models: Weight Initializations, Data Orders, and Early
    Stopping", on how far seeds alone move results.
    """

    code = "SLM004"
    name = "slim-accuracy-lost"
    family: ClassVar[Family] = "slim"
    summary = "more of the metric is lost than may be"
    fixes = (
        Fix("Take milder steps", changes="the size of the file"),
        Fix("Train the slim model further", changes="the weights, and so what it answers"),
    )

    spreads: float = 2.0  # standard deviations among seeds; by chance 1 in 40 lies beyond

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        from wellfit import slim

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(2):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        steps = [{"layer": "0", "method": "prune", "strength": 0.97}]
        plan = slim.Plan.from_json({"keep": 1, "steps": steps})
        slimmed = slim.apply(model, plan)
        slim.save(slimmed.model, "digits.wfz", slimmed.changes)
        report = slim.report(model, "digits.wfz", x[1400:], evaluate=accuracy, slimmed=slimmed, seconds=0.2)
        report.save("digits.report.json")

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        from wellfit import slim

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(2):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        steps = [{"layer": "0", "method": "share", "strength": 32}]
        plan = slim.Plan.from_json({"keep": 3, "steps": steps})
        slimmed = slim.apply(model, plan)
        slim.save(slimmed.model, "digits.wfz", slimmed.changes)
        report = slim.report(model, "digits.wfz", x[1400:], evaluate=accuracy, slimmed=slimmed, seconds=0.2)
        report.save("digits.report.json")

    def check_proof(self, proof: Proof) -> Iterator[Finding]:
        metric = proof.metric
        chance = None if metric.spread is None else self.spreads * metric.spread
        limit = metric.allowed if metric.allowed is not None else chance
        if limit is None or metric.lost <= limit:
            return
        is_chance = metric.allowed is not None and chance is not None and metric.lost <= metric.allowed + chance
        severity: Severity = "note" if is_chance else "error"
        yield self.finding(
            f"{self._lost(metric)}; take milder steps, or train the slim model further",
            severity=severity,
            evidence={
                "dense": metric.dense, "lost": metric.lost, "limit": limit,
                **({} if metric.slim is None else {"slim": metric.slim}),
                **({} if metric.spread is None else {"spread": metric.spread}),
            },
        )  # fmt: skip

    def _lost(self, metric: Figure) -> str:
        """What is lost, and what might have been."""
        if metric.slim is None or not math.isfinite(metric.lost):
            return f"with the weights of the file there is no finite {metric.name} at all"
        reasons = [] if metric.allowed is None else [f"{metric.allowed:g} may be"]
        reasons += [] if metric.spread is None else [f"seeds differ by {metric.spread:.2g}"]
        return f"{metric.lost:.2f} points of {metric.name} are lost, where {' and '.join(reasons)}"
