"""Overrides that only look: a run under them is the same to the bit, and what they see is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forks
from overridden import Run
from torch import nn

from wellfit.overrides.model._gradients import Unclear, compared

# A model with all that a further call could leave a trace in: dropout, batch norm, numbers drawn, a counter.
SCRIPT = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.head = nn.Linear(8, 3)
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        x = self.drop(self.norm(torch.relu(self.a(x))))
        # mixed
        return self.head(x)

torch.manual_seed(0)
x, y = torch.randn(160, 6), torch.randint(0, 3, (160,))
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for batch in torch.randperm(160).split(20):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
    loss.backward()
    optimizer.step()
    print(loss.item().hex())
print(model.calls, model.seen, model.norm.running_mean.tolist(), model.norm.num_batches_tracked, torch.rand(2).tolist())
"""


def mixing(line: str) -> str:
    return SCRIPT.replace("# mixed", line)


@pytest.mark.parametrize("line", ["pass", "x = x + x.mean(0)"])
def test_a_run_under_leak_test_is_the_same(line: str, forks: Forks, run: Run, tmp_path: Path) -> None:
    ran = run(mixing(line), "leak-test")
    assert ran.code == 0, ran.err
    assert ran.lines == forks.plain(tmp_path, mixing(line))


@pytest.mark.parametrize(
    ("line", "leaks"),
    [
        ("pass", False),
        ("x = x - x.mean(1, keepdim=True)", False),
        ("x = x + x.mean(0)", True),
        ("x = torch.softmax(x, 0)", True),
        ("x = x.cumsum(0)", True),
        ("x = x.flip(0)", True),
        ("x = nn.functional.layer_norm(x, x.shape)", True),
        ("x = x + torch.randn_like(x)", False),  # from the same seed each time
        ("x = x + 1e-9 * x.mean(0)", False),  # within rounding
    ],
)
def test_leaks_are_seen_and_nothing_else(line: str, leaks: bool, run: Run) -> None:
    ran = run(mixing(line), "leak-test")
    assert ran.record is not None
    events = ran.record.events("leak")
    assert bool(events) == leaks
    assert all(event["class"] == "Net" and event["file"].endswith("train.py") for event in events)
    said = ran.record.overrides[0].changed
    assert said == (
        "Net at train.py:25: answers depend on other samples of the batch"
        if leaks
        else "Net at train.py:25: no answer depends on another sample of the batch",
    )


SEQUENCES = """
import torch
from torch import nn
torch.manual_seed(0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 8, batch_first=FIRST)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.head(LAST)

x, y = torch.randn(SHAPE), torch.randint(0, 3, TARGET)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(4):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x).reshape(-1, 3), y.reshape(-1))
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("first", "last", "shape", "target", "leaks"),
    [
        ("True", "out[:, -1]", "12, 7, 4", "(12,)", False),
        ("False", "out[-1]", "7, 12, 4", "(12,)", False),  # time comes first
        ("False", "out[:, -1]", "12, 7, 4", "(12,)", True),  # batch_first was forgotten
        ("True", "out", "12, 7, 4", "(12, 7)", False),  # an answer at each moment
        ("False", "out", "7, 12, 4", "(7, 12)", False),
    ],
)
def test_the_batch_is_found_wherever_it_lies(
    first: str, last: str, shape: str, target: str, leaks: bool, run: Run
) -> None:
    script = SEQUENCES
    for name, value in (("FIRST", first), ("LAST", last), ("SHAPE", shape), ("TARGET", target)):
        script = script.replace(name, value)
    ran = run(script, "leak-test")
    assert ran.record is not None
    assert bool(ran.record.events("leak")) == leaks
    assert len(ran.record.overrides[0].changed) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("COUNT.append(1); x = x + len(COUNT)", "it gives another output each time, in eval mode too"),
        ("x = x.mean(0, keepdim=True).expand(20, -1) if self.training else x[:1]", "its output has no axis"),
        ("assert self.training", "it cannot be called by way of trial (AssertionError"),
    ],
)
def test_what_cannot_be_told_is_said_and_stops_the_run(line: str, why: str, run: Run) -> None:
    ran = run("COUNT = []\n" + mixing(line), "leak-test")
    assert ran.code == 2 and ran.lines == []
    assert "--override leak-test found nothing to change by the first step: no model could be tested" in ran.err
    assert why in ran.err


# Functions of the script's own ---------------------------------------------------------------------------------------


def made(forward: Any, backward: Any) -> Any:
    """A function of one argument; backward is given the gradient and the argument."""

    class Made(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> Any:
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            return backward(gradient, x)

    return Made


def looked_at(forward: Any, backward: Any, x: torch.Tensor | None = None) -> Any:
    torch.manual_seed(0)
    given = torch.randn(8, 5) if x is None else x
    with torch.no_grad():
        found = compared(made(forward, backward), (given,), [0])
    return found[0] if found else None


@pytest.mark.parametrize(
    ("forward", "backward", "x"),
    [
        (torch.exp, lambda g, x: g * x.exp(), None),
        (lambda x: x.clamp(min=0), lambda g, x: g * (x > 0), None),
        (
            lambda x: 2 * x.clamp(min=0),
            lambda g, x: 2 * g * (x > 0),
            torch.randn(8, 5).clamp(min=0),
        ),  # many exact zeros
        (torch.abs, lambda g, x: g * x.sign(), None),
        (lambda x: x.sort(0).values, lambda g, x: torch.empty_like(g).scatter_(0, x.sort(0).indices, g), None),
        (lambda x: 1e4 * x.square(), lambda g, x: 2e4 * g * x, None),
        (lambda x: x.square(), lambda g, x: 2 * g * x, 1e-4 * torch.randn(8, 5)),
        (lambda x: x.sum(), lambda g, x: g.expand_as(x), None),
    ],
)
def test_a_right_backward_is_not_blamed(forward: Any, backward: Any, x: torch.Tensor | None) -> None:
    found = looked_at(forward, backward, x)
    assert found is not None and found.error < 1e-4 and found.wrong < 3


@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        (torch.exp, lambda g, x: g * x),
        (torch.square, lambda g, x: g * x),  # 2 is missing
        (torch.tanh, lambda g, x: g * (1 - x.square())),
        (torch.sigmoid, lambda g, x: -g * x.sigmoid() * (1 - x.sigmoid())),
        (lambda x: x.sum(), lambda g, x: torch.zeros_like(x)),
        (lambda x: x * 1.05, lambda g, x: g * 1.0 + 0 * x),
    ],
)
def test_a_wrong_backward_is_found(forward: Any, backward: Any) -> None:
    found = looked_at(forward, backward)
    assert found.error > 1e-2 and found.wrong >= 3 and not found.flat


def test_a_forward_that_is_a_step_is_flat() -> None:
    found = looked_at(torch.sign, lambda g, x: g)
    assert found.flat
    assert looked_at(lambda x: (x * 8).round() / 8, lambda g, x: g).flat


def test_a_clamp_with_the_gradient_straight_through_is_known_as_such() -> None:
    assert looked_at(lambda x: x.clamp(-0.3, 0.3), lambda g, x: g).straight
    assert not looked_at(torch.square, lambda g, x: g * x).straight


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda x: x.view_as(x), "it hands on what it is given"),
        (lambda x: x + torch.randn_like(x), "it gives something else each time"),
        (lambda x: x.float(), "it does not compute in float64"),
        (lambda x: 1 / 0, "it does not take float64 (ZeroDivisionError"),
        (lambda x: x.argmax(), "it gives no real numbers"),
    ],
)
def test_what_cannot_be_judged_is_said(forward: Any, why: str) -> None:
    with pytest.raises(Unclear) as caught:
        looked_at(forward, lambda g, x: -g)
    assert why in str(caught.value)


def test_a_backward_that_fails_is_told() -> None:
    with pytest.raises(Unclear, match="its backward does not take float64"):
        looked_at(torch.exp, lambda g, x: g.view(3, 3, 3))


OWN = """
import torch
from torch import nn

class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, scale):
        ctx.save_for_backward(x, weight)
        ctx.scale = scale
        return scale * x * weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient * ctx.scale * weight, (gradient * WRONG).sum(0), None

torch.manual_seed(0)
x, y = torch.randn(64, 6), torch.randint(0, 3, (64,))
model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
weight = nn.Parameter(torch.ones(8))
optimizer = torch.optim.SGD([*model.parameters(), weight], lr=0.1)
for _ in range(5):
    optimizer.zero_grad()
    hidden = Scaled.apply(torch.tanh(model[0](x)), weight, 0.5)
    loss = nn.functional.cross_entropy(model[2](hidden), y)
    loss.backward()
    optimizer.step()
    print(loss.item().hex(), torch.rand(1).item())
"""


def test_functions_of_the_script_are_looked_at_and_the_run_is_the_same(forks: Forks, run: Run, tmp_path: Path) -> None:
    right, wrong = (OWN.replace("WRONG", text) for text in ("ctx.scale * x", "x"))
    for script, said in ((right, "agree"), (wrong, "disagree")):
        ran = run(script, "grad-test")
        assert ran.code == 0, ran.err
        assert ran.lines == forks.plain(tmp_path, script)
        assert ran.record is not None
        assert ran.record.overrides[0].changed == (f"Scaled: backward and finite differences {said}",)
        events = {event["argument"]: event for event in ran.record.events("gradient-test")}
        assert set(events) == {0, 1}
        assert events[0]["error"] < 1e-6 and (events[1]["error"] > 0.1) == (said == "disagree")
        assert Path(events[1]["file"]).name == "train.py"
        assert script.splitlines()[events[1]["line"] - 1].strip().startswith("def backward")


def test_a_script_without_such_functions_is_stopped(run: Run) -> None:
    ran = run(SCRIPT, "grad-test")
    assert ran.code == 2 and "the script calls no autograd.Function of its own that could be tested" in ran.err


def test_torch_has_its_apply_again() -> None:
    """Here nothing was patched: what the tests above did was in other processes."""
    assert isinstance(vars(torch.autograd.Function)["apply"], classmethod)
    assert nn.Module.__call__ is not None
