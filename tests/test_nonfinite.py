"""The walk back from a loss that is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from probed import many
from torch import nn

from wellfit.probe.fence import Fence
from wellfit.probe.layers import Layers
from wellfit.probe.nonfinite import autopsy
from wellfit.probe.statistics import Meter
from wellfit.probe.trace import Trace
from wellfit.rules.backward.non_finite_grad import NonFiniteGrad
from wellfit.rules.data.non_finite_input import NonFiniteInput
from wellfit.rules.forward.non_finite_forward import NonFiniteForward


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4)], ids=["addmm", "batched"])
def test_the_autopsy_tells_bad_data_from_a_bad_operation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    layers, trace = Layers(), Trace(Fence(), lambda: None)

    def found(x: torch.Tensor) -> dict:
        return autopsy(net(x).square().sum().grad_fn, layers, Meter(), trace, [])

    assert found(torch.randn(shape).index_fill(-1, torch.tensor([1]), math.nan))["where"] == "input"
    with torch.no_grad():
        net[0].weight.fill_(3e38)
    assert found(torch.ones(shape))["where"] == "forward"
    with torch.no_grad():
        net[0].weight.fill_(math.nan)
    assert found(torch.ones(shape))["where"] == "parameter"


SAMPLER = """
torch.manual_seed(0)
model = nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(60):
    optimizer.zero_grad()
    output = model(torch.randn(8, 4))
    action = torch.multinomial(output.softmax(1), 1)
    output.gather(1, action).mean().backward()
    if step == 40:
        model.weight.grad[0, 0] = {value}
    optimizer.step()
"""


def test_weights_are_looked_at_where_the_program_dies_of_them(tmp_path: Path) -> None:
    parts = many(tmp_path, {value: SAMPLER.format(value=value) for value in ("torch.nan", "1.0")}, every=1000)
    ill, well = parts["torch.nan"], parts["1.0"]
    assert "RuntimeError" in ill.err and not well.err
    (event,) = ill.record.events("non-finite")
    assert event["where"] == "parameter" and event["parameters"] == ["weight"]
    (finding,) = NonFiniteGrad().check(ill.record)
    assert finding.severity == "error" and "`weight`" in finding.message
    assert not well.record.events("non-finite")


POLICY = """
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(60):
    state = torch.randn(8, 4)
    if step == 40:
        {fault}
    scores = model(state)
    if step == 40:
        {later}
    action = torch.distributions.Categorical(logits=scores).sample()  # refuses NaN
    optimizer.zero_grad()
    scores.gather(1, action[:, None]).mean().backward()
    optimizer.step()
"""
DEATHS = {
    "data": POLICY.format(fault="state[0, 0] = torch.nan", later="pass"),
    "operation": POLICY.format(fault="pass", later="scores = (scores - 100).log()"),
    "unrelated": POLICY.format(fault="pass", later="scores = scores / 0 * 0; raise KeyError(3)"),
}


def test_what_a_distribution_refused_is_traced_back(tmp_path: Path) -> None:
    parts = many(tmp_path, DEATHS, every=1000)
    assert "ValueError" in parts["data"].err and "ValueError" in parts["operation"].err
    (event,) = parts["data"].record.events("non-finite")
    assert event["where"] == "input" and event["died"]
    (finding,) = NonFiniteInput().check(parts["data"].record)
    assert finding.severity == "error" and finding.step == 40 and "ended by an error" in finding.message
    (finding,) = NonFiniteForward().check(parts["operation"].record)
    assert finding.severity == "error" and "`log`" in finding.message
    assert not list(NonFiniteInput().check(parts["operation"].record))
    assert not parts["unrelated"].record.events("non-finite")


def _two_gates(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    first, second = (-(x @ weight) * 2 + 1).chunk(2, -1)
    return torch.maximum(first, second).relu()


@pytest.mark.parametrize("kind", ["gru", "rnn", "by hand"])
def test_a_bad_weight_is_found_however_far_from_the_operation_that_shows_it(kind: str) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 6))
    model: nn.Module | None = {"gru": nn.GRU(4, 3), "rnn": nn.RNN(4, 3, nonlinearity="relu")}.get(kind)
    with torch.no_grad():
        (weight if model is None else model.weight_ih_l0)[0, 0] = math.nan
    x = torch.randn(5, 2, 4)
    loss = (_two_gates(x, weight) if model is None else model(x)[0])[-1].square().sum()
    layers, trace = Layers(), Trace(Fence(), lambda: None)
    assert autopsy(loss.grad_fn, layers, Meter(), trace, [])["where"] == "parameter"
