"""What overrides of the model put back: where they fail halfway, and after each trial call."""

from __future__ import annotations

import pytest
from overridden import Run
from written import said

SECOND = """
import torch
from torch import nn
import wellfit.overrides.model._sizes
import wellfit.overrides.model.activation
import wellfit.overrides.model.norm
import wellfit.overrides.model.recurrent

torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.first, self.norm, self.act = nn.GRU(4, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh()
        self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 1)
        self.rnn.retain = {"some": [1]}
    def forward(self, x):
        x = self.act(self.norm(self.first(self.rnn(x)[0])))
        return self.last(torch.sigmoid(self.second(x)))
def look(net):
    return [(name, type(m).__name__, m.extra_repr(), len(m._forward_hooks), list(m._modules)) for name, m in
            net.named_modules()], [(name, p.shape, p.sum().item()) for name, p in net.named_parameters()]
def learn(net):
    for step in range(3):
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
x = torch.randn(5, 2, 4)
net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
learn(net)
net = Net()
before, weights = look(net), [*net.parameters()]
optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
def fails(*args, **kwargs):
    raise ValueError("halfway")
# fails
learn(net)
print(before == look(net), all(a is b for a, b in zip(weights, net.parameters(), strict=True)))
print([id(p) for p in optimizer.param_groups[0]["params"]] == list(map(id, weights)))
"""


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("norm=batch,where:insert", "wellfit.overrides.model.norm._first_statistics"),
        ("norm=batch,where:exchange", "wellfit.overrides.model.norm._first_statistics"),
        ("activation=maxout", "wellfit.overrides.model.activation.Activation._again"),
        ("activation=relu", "wellfit.overrides.model.activation.Activation._again"),
        ("recurrent=lstm", "wellfit.overrides.model.recurrent._whole_states"),
    ],
)
def test_a_model_that_an_override_fails_with_is_as_it_was(run: Run, override: str, where: str) -> None:
    ran = run(SECOND.replace("# fails", f"{where} = fails"), override)
    assert ran.code == 0 and "ValueError: halfway" in ran.err and "goes on without it" in ran.err, ran.err
    assert ran.lines == ["True True", "True"]


def test_a_group_that_fails_halfway_keeps_its_width(run: Run) -> None:
    fails = """
twin, calls = wellfit.overrides.model._sizes._twin, []
def fails(*args):
    calls.append(1)
    return twin(*args) if len(calls) % 2 else {}["second layer"]
wellfit.overrides.model._sizes._twin = fails
"""
    ran = run(SECOND.replace("# fails", fails), "width=2")
    assert ran.code == 0 and "goes on without it" not in ran.err, ran.err
    assert ran.lines == ["True True", "True"]
    assert ("first", "KeyError: 'second layer'") in said(ran, "width")[1]


STATEFUL = """
import collections
import torch
from torch import nn

torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)
        self.state = {"h": torch.zeros(3, 4)}
        self.log = {"calls": [], "kinds": collections.defaultdict(list)}
        self.recent = collections.deque(maxlen=2)
        self.total, self.pair = torch.zeros(4), (torch.zeros(4), [0])
    def forward(self, x):
        h = torch.relu(self.first(x)) + self.state["h"]
        self.state["h"] = h.detach() / 2
        self.log["calls"].append(len(self.log["calls"]))
        self.log["kinds"][x.dim()].append(1)
        self.recent.append(x)
        self.total += h.detach().sum(0)
        self.pair[0].add_(1)
        self.pair[1][0] += 1
        self.made = x
        return self.last(h)
net, x = Net(), torch.randn(3, 4)
# before
optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
for step in range(2):
    nn.functional.mse_loss(net(x), torch.zeros(3, 1)).backward()
    optimizer.step()
print(net.log, len(net.recent), net.pair, net.total.tolist(), net.state)
"""


def test_a_trial_leaves_no_trace_in_attributes(run: Run) -> None:
    ran = run(STATEFUL, "dropout=0.5")
    hand = run(
        STATEFUL.replace("# before", "net.last.register_forward_pre_hook(lambda m, a: (nn.functional.dropout(a[0]),))")
    )
    assert ran.code == hand.code == 0, ran.err
    assert ran.lines == hand.lines
