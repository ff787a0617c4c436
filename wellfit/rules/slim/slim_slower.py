"""SLM002: the slim model takes longer than the dense one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix, Severity
from wellfit.proof import Latency, Proof
from wellfit.rule import Family, Rule


class SlimSlower(Rule):
    """A call of the slim model takes longer than one of the dense model.

    What it checks
    Both models, called in turn with the same inputs, at each batch size: the median of the slim one lies above the
    upper quartile of the dense one, and its lower quartile above the dense median; and it took `longer` times as long
    by its median, by its fastest tenth, and call by call. Fewer than `calls` calls of each say nothing of quartiles.
    It is an error at the batch size of a target of time. For a target of size, and at other batch sizes, it is noted:
    nobody has asked for speed there.

    Why it hurts
    A model was changed to be fast, and is slow. Two narrow layers in the place of one are two calls; int8 kernels lose
    with small layers; a convolution in four thin ones reads its memory four times.

    Cure
    Give the layers back whose own time rose: the table of the proof has the milliseconds of each. Or choose a method
    that suits the machine and the batch size: `wellfit slim --target latency` keeps only what it has timed to be
    faster.

    Fix safety
    A layer that is given back computes what it did before.

    When it is wrong
    Another machine, another number of threads or another batch size may tell otherwise: measure where the model is
    used. A model of which few calls fit into the time is not judged: give `wellfit.slim.report` more seconds.

    References
    Hoefler and Belli 2015, "Scientific Benchmarking of Parallel Computing Systems", on medians and quartiles of times.
    """

    code = "SLM002"
    name = "slim-slower"
    family: ClassVar[Family] = "slim"
    summary = "a call of the slim model takes longer than one of the dense model"
    fixes = (Fix("Give the layers back whose own time rose", safe=True),)

    longer: float = 1.2  # times as long; less comes and goes with the machine, as for what is called faster
    calls: int = 20  # of each model; of 20 that only differ by chance less than 1 in 100 is named

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        from wellfit import slim

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(1):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        steps = [{"layer": "3", "method": "cp", "strength": 60}]
        plan = slim.Plan.from_json({"target": "latency", "keep": 100, "steps": steps})
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
        model = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(1):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        steps = [{"layer": "6", "method": "prune", "strength": 0.5}]
        plan = slim.Plan.from_json({"keep": 100, "steps": steps})
        slimmed = slim.apply(model, plan)
        slim.save(slimmed.model, "digits.wfz", slimmed.changes)
        report = slim.report(model, "digits.wfz", x[1400:], evaluate=accuracy, slimmed=slimmed, seconds=0.2)
        report.save("digits.report.json")

    def check_proof(self, proof: Proof) -> Iterator[Finding]:
        for one in proof.latency:
            if not self._is_slower(one):
                continue
            dense, slim = one.dense, one.slim
            severity: Severity = "error" if proof.is_for_time and one.batch == proof.batch else "note"
            samples = "one sample" if one.batch == 1 else f"{one.batch} samples"
            yield self.finding(
                f"a call with {samples} takes {slim.p50:.3g} ms, and took {dense.p50:.3g} ms: what was changed suits "
                "this machine or batch size badly; give the layers back whose own time rose",
                severity=severity,
                evidence={
                    "batch": one.batch, "dense_p50": dense.p50, "dense_p75": dense.p75, "slim_p25": slim.p25,
                    "slim_p50": slim.p50, "speedup": one.speedup,
                },
            )  # fmt: skip

    def _is_slower(self, one: Latency) -> bool:
        """Whether it is more than noise by which the two differ."""
        dense, slim = one.dense, one.slim
        return (
            min(dense.calls, slim.calls) >= self.calls
            and slim.p50 > dense.p75
            and slim.p25 > dense.p50
            and slim.p50 >= self.longer * dense.p50
            and slim.p10 >= self.longer * dense.p10
            and one.speedup * self.longer <= 1
        )
