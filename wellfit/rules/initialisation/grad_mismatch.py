"""INI212: a backward written by hand is not the derivative of its forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record
from wellfit.rule import Family, Rule


class GradMismatch(Rule):
    """The backward of an autograd.Function of the script's own disagrees with finite differences of its forward.

    What it checks
    `wellfit check` only: a run under `grad-test`, which compares the two in float64, along random directions, in the
    first two calls. A difference of more than `error` of the larger one, in the median and in `judged` directions or
    more, is an error; a backward that hands on what it is given (straight through) is noted only. Directions across a
    kink, functions that are random, nowhere smooth, hand on what they are given or do not compute in float64 are not
    judged.

    Why it hurts
    The steps do not go downhill. A backward that is only a little wrong trains a little worse, and nothing else tells.

    Cure
    Derive it again, term by term, and test it with torch.autograd.gradcheck in float64; or leave it out and let
    autograd differentiate the forward.

    Fix safety
    The gradient becomes what it was meant to be.

    When it is wrong
    Gradients that are another function's on purpose: a smooth one in place of a step that is only nearly flat, a
    gradient that is clipped or normalised within. Silence it there.

    References
    PyTorch documentation, "Extending PyTorch" and torch.autograd.gradcheck; Goodfellow, Bengio and Courville 2016,
    "Deep Learning", section 11.5.
    """

    code = "INI212"
    name = "grad-mismatch"
    family: ClassVar[Family] = "initialisation"
    summary = "a backward written by hand is not the derivative of its forward"
    reads = ("gradient-test",)
    consequences = (
        "cannot-overfit",
        "input-ignored",
        "plateau",
        "underfit",
        "diverged",
        "exploding",
        "vanishing",
        "lr-high",
        "lr-low",
        "zero-grad-param",
    )
    fixes = (Fix("Derive the backward again, and test it with torch.autograd.gradcheck"),)
    trials = ("grad-test",)

    error: float = 1e-2  # of the larger derivative; central differences in float64 reach 1e-6
    judged: int = 3  # directions

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Swish(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * torch.sigmoid(x)

            @staticmethod
            def backward(ctx, gradient):
                (x,) = ctx.saved_tensors
                s = torch.sigmoid(x)
                return gradient * (s + s * (1 - s))  # x is missing: s + x * s * (1 - s)

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(64, 64)
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                return self.head(Swish.apply(self.hidden(x)))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(3):
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

        class Swish(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * torch.sigmoid(x)

            @staticmethod
            def backward(ctx, gradient):
                (x,) = ctx.saved_tensors
                s = torch.sigmoid(x)
                return gradient * (s + x * s * (1 - s))

        class Sign(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.sign(x)

            @staticmethod
            def backward(ctx, gradient):
                return gradient  # straight through: on purpose

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.Linear(64, 64)
                self.code = nn.Linear(64, 64)
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                return self.head(Sign.apply(self.code(Swish.apply(self.hidden(x)))))

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check_trial(self, record: Record, companions: Mapping[str, Record]) -> Iterator[Finding]:
        trial = companions.get("grad-test")
        if trial is None:
            return
        tested: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for event in trial.events("gradient-test"):
            tested.setdefault((event["function"], event["argument"]), []).append(event)
        for (function, argument), events in tested.items():
            wrong = [event for event in events if event["error"] > self.error and event["wrong"] >= self.judged]
            if len(wrong) < len(events):  # one call of two: a place where it is hard to tell
                continue
            event = max(wrong, key=lambda one: float(one["error"]))
            file, line = event["file"], event["line"]
            where = Location(file, line) if isinstance(file, str) and isinstance(line, int) else None
            yield self.finding(
                f"`{function}.backward` is not the derivative of its forward by argument {argument}: along a random "
                f"direction it gives {event['analytic']:.4g}, a finite difference in float64 gives "
                f"{event['numeric']:.4g}, so steps do not go downhill; derive it again, and test it with "
                "torch.autograd.gradcheck",
                severity="note" if event["straight"] else "error", location=where,
                evidence={"error": event["error"], "limit": self.error, "directions": event["directions"],
                          "wrong": event["wrong"]},
                from_start=True,
            )  # fmt: skip
