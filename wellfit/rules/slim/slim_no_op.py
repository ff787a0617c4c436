"""SLM001: a model was slimmed, and is neither smaller nor faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix
from wellfit.proof import Proof
from wellfit.rule import Family, Rule


class SlimNoOp(Rule):
    """Steps were taken, and neither the bytes of the file nor the time of a call fell.

    What it checks
    The file of a slim model in which at least one step was taken: its bytes are not `gain` times fewer than those of
    the dense weights in a file, coded without loss, and at no batch size a call is `faster` times as fast. The bytes
    are not held against the model in memory: coding alone makes every file smaller, whatever was done before. Where
    nothing was timed, the bytes decide.

    Why it hurts
    Zeros that are too few to be worth a code, or a structure that this machine runs no faster, cost accuracy and give
    nothing for it. Of pruning that made nothing smaller, the users of every tool complain.

    Cure
    Leave the steps out, or choose stronger ones: more zeros, fewer values, a lower rank. `prune` is worth bytes from
    about half of the weights on, and never time; for time there are `cut`, `svd`, `tucker` and `int8`.

    Fix safety
    Stronger steps lose more: the proof that is made again tells how much.

    When it is wrong
    Where something else was wanted: a model that needs less memory while it runs may have a file as large as before.

    References
    Blalock et al. 2020, "What is the State of Neural Network Pruning?", on sizes and speeds that are claimed and not
    measured.
    """

    code = "SLM001"
    name = "slim-no-op"
    family: ClassVar[Family] = "slim"
    summary = "steps were taken, and neither bytes nor time fell"
    fixes = (Fix("Take stronger steps, or none", changes="how much is lost"),)

    gain: float = 1.02  # times fewer bytes; two percent is what headers and tables decide
    faster: float = 1.2  # times as fast; less comes and goes with the machine

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

        steps = [{"layer": "0", "method": "prune", "strength": 0.02}]
        plan = slim.Plan.from_json({"steps": steps})
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

        steps = [
            {"layer": "0", "method": "prune", "strength": 0.6},
            {"layer": "0", "method": "share", "strength": 16},
        ]
        plan = slim.Plan.from_json({"keep": 5, "steps": steps})
        slimmed = slim.apply(model, plan)
        slim.save(slimmed.model, "digits.wfz", slimmed.changes)
        report = slim.report(model, "digits.wfz", x[1400:], evaluate=accuracy, slimmed=slimmed, seconds=0.2)
        report.save("digits.report.json")

    def check_proof(self, proof: Proof) -> Iterator[Finding]:
        speedup = max((one.speedup for one in proof.latency), default=None)
        is_faster = speedup is not None and speedup >= self.faster
        if not proof.steps or is_faster or proof.coded_bytes >= self.gain * proof.slim_bytes:
            return
        taken = "1 step was taken" if proof.steps == 1 else f"{proof.steps} steps were taken"
        timed = "" if speedup is None else f", and a call is {speedup:.2f} times as fast"
        yield self.finding(
            f"{taken}, but the file has {proof.slim_bytes:,} bytes, {proof.coded_bytes:,} without any{timed}; take "
            "stronger steps, or none",
            severity="error",
            evidence={
                "steps": proof.steps, "slim_bytes": proof.slim_bytes, "coded_bytes": proof.coded_bytes,
                **({} if speedup is None else {"speedup": speedup}),
            },
        )  # fmt: skip
