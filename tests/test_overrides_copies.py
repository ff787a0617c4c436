"""Copies that a script makes of its model (averages, targets, the best epoch) under overrides that change the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks
from overridden import Run
from written import changed, said, seeded

AVERAGE = """
import copy
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 16), nn.PReLU(), nn.Linear(16, 2)
        self.rnn = nn.GRU(8, 8, batch_first=True)
    def forward(self, x):
        return self.last(self.act(self.first(self.rnn(x.unsqueeze(1))[0][:, 0])))
net = Net()
# made
average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
target = copy.deepcopy(net).requires_grad_(False).eval()
optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
x = torch.randn(128, 8)
y = (x[:, 0] > 0).long()
for step in range(60):
    loss = nn.functional.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update_parameters(net)
    for its, own in zip(target.parameters(), net.parameters(), strict=True):
        its.data.lerp_(own.data, 0.2)
with torch.no_grad():
    for model in (net, average, target):
        print((model(x).argmax(1) == y).float().mean().item() > 0.9, model(x).sum().item())
print(target.training, any(p.requires_grad for p in target.parameters()), torch.rand(1).item())
"""
STRUCTURAL = [
    "width=2", "norm=batch", "norm=weight", "activation=maxout", "activation=tanh", "recurrent=lstm",
]  # fmt: skip


@pytest.mark.parametrize("override", STRUCTURAL)
def test_copies_made_before_the_first_call_are_changed_too(run: Run, override: str) -> None:
    ran = run(AVERAGE, override)
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.lines[:3]] == ["True"] * 3
    assert ran.lines[3] == run(AVERAGE, "lr=0.02").lines[3]  # a copy is in its own mode, and nothing is drawn
    assert "Net: its 2 copies too" in said(ran, override.split("=")[0])[0]


@pytest.mark.parametrize(
    ("override", "hand"),
    [
        ("dead-bias=-2", "net.first.bias.data.fill_(-2)"),
        ("init=normal,std:0.3,layers:first", "nn.init.normal_(net.first.weight, 0, 0.3); net.first.bias.data.zero_()"),
    ],
)
def test_weights_of_copies_are_set_with_those_of_the_model(
    forks: Forks, tmp_path: Path, override: str, hand: str
) -> None:
    ran = forks.run(tmp_path, AVERAGE, override)
    assert ran.lines == forks.plain(tmp_path, changed(AVERAGE, ("# made\n", seeded(hand)))), ran.err
    made, left = said(ran, override.split("=")[0])
    assert "Net: its 2 copies too" in made and not any(why.startswith("training has") for _, why in left)


OTHER = """
import torch
from torch import nn

torch.manual_seed(0)
net, average = (nn.Sequential(nn.LSTM(4, 4), nn.Flatten()) for _ in range(2))
net.forward = lambda x: net[0](x)[0]
average.forward = lambda x: average[0](x)[0]
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
x = torch.randn(3, 2, 4)
for step in range(2):
    loss = net(x).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for its, own in zip(average.parameters(), net.parameters()):
        its.data.lerp_(own.data, 0.5)
before = [p.clone() for p in average.parameters()]
average(x)
print(all(map(torch.equal, before, average.parameters())))
"""


@pytest.mark.parametrize("override", ["init=he", "forget-bias=1"])
def test_an_average_that_began_elsewhere_keeps_what_it_has(run: Run, override: str) -> None:
    ran = run(OTHER, override)
    assert ran.lines == ["True"], ran.err
    assert any("may be an average" in why for _, why in said(ran, override.split("=")[0])[1])


RELOAD = """
import torch
from torch import nn

torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.mid, self.norm = nn.Linear(8, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.last = nn.Linear(16, 2)
    def forward(self, x):
        return self.last(torch.relu(self.norm(self.mid(torch.relu(self.first(x))))))
def train():
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for step in range(60):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return net.eval()(x), net.state_dict()
x = torch.randn(128, 8)
y = (x[:, 0] > 0).long()
given, state = train()  # the model is gone
best, held = Net().eval(), nn.ModuleDict({"inner": Net().eval()})
best.load_state_dict(state)
held.load_state_dict({f"inner.{name}": value for name, value in state.items()})
with torch.no_grad():
    print(torch.equal(best(x), given), torch.equal(held["inner"](x), given), *state)
"""


@pytest.mark.parametrize(
    "overrides",
    [[each] for each in (*STRUCTURAL[:4], "norm=none", "dead-bias=-2", "init=he", "residual")]
    + [["width=2", "norm=layer,where:insert", "activation=maxout", "init=he"]],
    ids=" ".join,
)
def test_weights_are_loaded_into_a_new_model(run: Run, overrides: list[str]) -> None:
    ran = run(RELOAD, *overrides)
    assert ran.code == 0 and ran.lines[0].startswith("True True"), (ran.out, ran.err)


def test_weights_of_another_run_do_not_fit_and_that_is_explained(run: Run) -> None:
    script = (
        "import torch\nstate = dict.fromkeys(['0.weight'], torch.ones(6, 2))\n"
        + """
from torch import nn
net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
for _ in range(2):
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        print("size mismatch" in str(error))
net(torch.ones(1, 2)).sum().backward()
"""
    )
    ran = run(script, "width=2")
    assert ran.lines == ["True"] * 2 and ran.err.count("changes a model when it is first called") == 1


LEARNERS = """
import copy
import torch
from torch import nn

torch.manual_seed(0)
agent = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
target = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
target.load_state_dict(agent.state_dict())
peer = copy.deepcopy(agent)
optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in (agent, peer)]
x = torch.randn(32, 4)
for step in range(3):
    with torch.no_grad():
        wanted = target(x)
    for model, optimizer in zip((agent, peer), optimizers):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x) + 1, wanted).backward()
        if step == 0 and model is agent:
            print(all(map(torch.equal, target.parameters(), agent.parameters())))
        optimizer.step()
    for its, own in zip(target.parameters(), agent.parameters()):
        its.data.lerp_(own.data, 0.1)
    print(all(map(torch.equal, agent.parameters(), peer.parameters())))
for model, optimizer in zip((agent, peer), optimizers):
    print([id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()])
"""


@pytest.mark.parametrize("override", ["width=2", "norm=layer", "activation=maxout", "init=he", "dead-bias=-1"])
def test_a_target_that_is_called_first_and_a_copy_that_is_trained(run: Run, override: str) -> None:
    ran = run(LEARNERS, override)
    assert ran.lines == ["True"] * 6, ran.err


def test_a_target_made_after_the_first_call_is_not_initialised_again(run: Run) -> None:
    late = "target.load_state_dict(agent.state_dict())\n"
    script = changed(
        LEARNERS,
        (late, ""),
        ("    with torch.no_grad", f"    agent(x) if not step else 0\n    {late}    with torch.no_grad"),
    )
    assert run(script, "init=he").lines[0] == "True"


def test_models_that_are_alike_by_chance_are_no_copies(run: Run) -> None:
    script = """
import torch
from torch import nn
models = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
[nn.init.constant_(p, 0.5) for model in models for p in model.parameters()]
optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1)
for step in range(2):
    optimizer.zero_grad()
    sum(model(torch.ones(3, 4)).square().mean() for model in models).backward()
    optimizer.step()
"""
    assert said(run(script, "width=2"), "width")[0] == ["0: 4 -> 8 units"]


@pytest.mark.parametrize("override", [*STRUCTURAL, "init=he", "dead-bias=-1", "loss", "detach=first", "residual"])
def test_nothing_keeps_models_and_their_copies_alive(run: Run, override: str) -> None:
    script = """
import copy, gc, weakref
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.first, self.act = nn.GRU(4, 4), nn.Linear(4, 4), nn.ReLU()
        self.head = nn.Linear(4, 2)
    def forward(self, x):
        return self.head(self.act(self.first(self.rnn(x)[0]))).softmax(1)
def train():
    net = Net()
    target = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.randn(6, 4)), torch.tensor([0, 1, 0, 1, 1, 1])).backward()
        optimizer.step()
    target.load_state_dict(net.state_dict())
    late = Net()
    late.load_state_dict(net.state_dict())
    models = [net, target, late]
    return [weakref.ref(each) for each in (*models, *(p for model in models for p in model.parameters()))]
for round in range(2):
    references = train()
    gc.collect()
    print(all(reference() is None for reference in references))
"""
    ran = run(script, override)
    assert ran.code == 0 and ran.lines == ["True", "True"], (ran.out, ran.err)
