"""SLM003: a step that was asked for was not taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix
from wellfit.proof import Proof, Skipped
from wellfit.rule import Family, Rule


class SlimLayerSkipped(Rule):
    """What was asked for was not done to a layer.

    What it checks
    The layers that a slimming has left as they were, with their reasons: those of one method and reason together, and
    together those for which no method was of use. They have `share` of the model's parameters or more. Norms, biases
    and buffers that a search of zeros and shared values leaves alone by design are not among them.

    Why it hurts
    It need not. But a tool that skips half of a model in silence lets its user believe that all of it was quantised;
    and the layers that were skipped decide how small and fast the rest can make it.

    Cure
    Read the reason. Some are cured by another method or strength for the layer, some by a change of the model's code:
    a layer that is called by a function of its own, or whose outputs are those of the model, cannot be cut.

    Fix safety
    Another method changes other numbers: the proof that is made again tells how many.

    When it is wrong
    It is a note, and says what happened. Where the rest is enough, nothing is wrong.

    References
    PyTorch documentation of `torch.ao.quantization.quantize_dynamic`, which quantises the layers of the types that it
    knows and leaves all others without a word.
    """

    code = "SLM003"
    name = "slim-layer-skipped"
    family: ClassVar[Family] = "slim"
    summary = "what was asked for was not done to some layers"
    worst = "note"
    fixes = (Fix("Choose another method or strength for the layer", changes="how much is lost"),)

    share: float = 0.01  # of the parameters, all layers of one reason together; less is not worth a word

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
        for _epoch in range(1):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        steps = [
            {"layer": "0", "method": "share", "strength": 16},
            {"layer": "2", "method": "tucker", "strength": [2, 2]},
        ]
        plan = slim.Plan.from_json({"keep": 100, "steps": steps})
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
        for _epoch in range(1):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        steps = [
            {"layer": "0", "method": "share", "strength": 16},
            {"layer": "2", "method": "share", "strength": 16},
        ]
        plan = slim.Plan.from_json({"keep": 100, "steps": steps})
        slimmed = slim.apply(model, plan)
        slim.save(slimmed.model, "digits.wfz", slimmed.changes)
        report = slim.report(model, "digits.wfz", x[1400:], evaluate=accuracy, slimmed=slimmed, seconds=0.2)
        report.save("digits.report.json")

    def check_proof(self, proof: Proof) -> Iterator[Finding]:
        groups: dict[tuple[str, str], list[Skipped]] = {}
        for one in proof.skipped:
            groups.setdefault((one.method, one.reason if one.method else ""), []).append(one)
        for (method, reason), group in groups.items():
            share = sum(one.parameters for one in group) / max(1, proof.parameters)
            if share < self.share:
                continue
            layers = [one.layer or "the model itself" for one in group]
            named = ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
            what = f"{method} was not" if method else "nothing was"
            why = reason or (group[0].reason if len(group) == 1 else "each has its reason in the table")
            yield self.finding(
                f"{what} done to {named} ({share:.0%} of the parameters): {why}; another method or strength may fit",
                severity="note", layer=layers[0] if len(layers) == 1 else None,
                evidence={"share": share, "layers": layers},
            )  # fmt: skip
