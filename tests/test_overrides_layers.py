"""Overrides of convolutions, recurrent layers and what goes with them, each against the same change by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks
from written import changed, said, seeded

CNN = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(20, 1, 8, 8), torch.randint(0, 3, (20,))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.side = nn.Conv1d(6, 5, 1)
        self.lstm = nn.LSTM(6, 7, batch_first=True, bidirectional=True)
        self.full = nn.Linear(6 * 16 + 5 + 14, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.inner(x))
        x = F.max_pool2d(F.relu(self.norm(self.wide(x))), 2)
        row = x.flatten(2)
        recurrent, _ = self.lstm(row.transpose(1, 2))
        x = torch.cat([x.flatten(1), F.relu(self.side(row)).amax(2), recurrent[:, -1]], dim=1)
        return self.head(F.relu(self.full(x)))


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
before = [p.clone() for p in net.parameters()]
for _ in range(5):
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print({name: tuple(p.shape) for name, p in net.named_parameters() if "bias" not in name and "reverse" not in name})
print(all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters()), len(optimizer.state))
print(net.norm.num_batches_tracked.item(), torch.rand(1).item(), loss.item() < 1.2)
"""


def test_widths_follow_through_sums_flatten_and_concatenation(forks: Forks, tmp_path: Path) -> None:
    hand = changed(
        CNN, ("Conv2d(1, 4", "Conv2d(1, 8"), ("Conv2d(4, 4", "Conv2d(8, 8"), ("Conv2d(4, 6", "Conv2d(8, 12"),
        ("BatchNorm2d(6)", "BatchNorm2d(12)"), ("Conv1d(6, 5", "Conv1d(12, 10"), ("LSTM(6, 7", "LSTM(12, 14"),
        ("6 * 16 + 5 + 14, 10", "12 * 16 + 10 + 28, 20"), ("Linear(10, 3)", "Linear(20, 3)"),
    )  # fmt: skip
    ran = forks.run(tmp_path, CNN, "width=2")
    shapes = ran.lines[0]
    assert shapes == forks.plain(tmp_path, hand)[0]
    assert ran.lines[1:] == forks.plain(tmp_path, CNN)[1:]  # nothing of the trials is left, in no statistics or stream
    assert "stem, inner: 4 -> 8 units" in said(ran, "width")[0]
    assert ran.record is not None
    assert ran.record.layers["full"].attributes["in_features"] == 12 * 16 + 10 + 28


def test_batch_norm_goes_in_with_the_statistics_of_the_first_batch(forks: Forks, tmp_path: Path) -> None:
    script = changed(
        CNN, ("before = [p.clone() for p in net.parameters()]\n", "net.eval()\nwith torch.no_grad():\n    net(x)\n"
        "    out = nn.Conv2d.forward(net.stem, x)\n    norm = net.stem.added_norm\n"
        "    print(torch.allclose(norm.running_mean, out.mean((0, 2, 3))),"
         " torch.allclose(norm.running_var, out.var((0, 2, 3))))\n"
        "    print([n for n, _ in net.named_buffers() if 'mean' in n])\n"
        "    net.train()\n"),
    )  # fmt: skip
    ran = forks.run(tmp_path, script, "norm=batch,where:insert")
    assert ran.lines[0] == "True True"
    names = ("stem.added_norm", "inner.added_norm", "norm", "side.added_norm", "full.added_norm")
    assert ran.lines[1] == str([f"{name}.running_mean" for name in names])
    assert "wide" in dict(said(ran, "norm")[1]) and ran.lines[-1].endswith("True")


CONVS = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
y = torch.randint(0, 3, (20,))
x = torch.randn(20, 2, 6, 6)
x[range(20), 0, y] += 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3)
        self.full = nn.Linear(96, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.inner(x)).flatten(1)
        return self.head(F.relu(self.full(x)))


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
for _ in range(20):
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
"""


@pytest.mark.parametrize(
    ("kind", "norms"),
    [
        ("instance", ("InstanceNorm2d(4, affine=True)", "InstanceNorm2d(6, affine=True)", "Identity()")),
        ("group,groups:2", ("GroupNorm(2, 4)", "GroupNorm(2, 6)", "GroupNorm(2, 10)")),
        ("layer", ("GroupNorm(1, 4)", "GroupNorm(1, 6)", "LayerNorm(10)")),
    ],
)
def test_norms_of_each_sample_train_a_net_of_convolutions(
    forks: Forks, tmp_path: Path, kind: str, norms: tuple[str, str, str]
) -> None:
    made = "".join(f"        self.norm{number} = nn.{norm}\n" for number, norm in enumerate(norms))
    hand = changed(
        CONVS,
        ("        self.head = nn", f"{made}        self.head = nn"),
        ("self.stem(x)", "self.norm0(self.stem(x))"),
        ("self.inner(x)", "self.norm1(self.inner(x))"),
        ("self.full(x)", "self.norm2(self.full(x))"),
    )
    ran = forks.run(tmp_path, CONVS, f"norm={kind}")
    assert ran.lines == forks.plain(tmp_path, hand)
    assert float(ran.lines[-1]) < 0.5 * float(ran.lines[0])
    left = dict(said(ran, "norm")[1])
    assert left.get("full") == ("each of its channels has one place only" if kind == "instance" else None)
    # Where there are norms they are exchanged.
    others = ("BatchNorm2d(4)", "BatchNorm2d(6)", "BatchNorm1d(10)" if kind != "instance" else "Identity()")
    normed = changed(hand, *((f"nn.{norm}", f"nn.{other}") for norm, other in zip(norms, others)))
    exchanged = forks.run(tmp_path, normed, f"norm={kind}")
    assert exchanged.lines == ran.lines and "BatchNorm2d norm0, norm1: ->" in str(said(exchanged, "norm"))


def test_frozen_parameters_and_statistics_stay(forks: Forks, tmp_path: Path) -> None:
    script = changed(
        CNN,
        ("optimizer = torch.optim.SGD(net.parameters(), lr=0.05)",
         "optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.5)"),
        ("print(all(p.grad", "print([n for (n, p), b in zip(net.named_parameters(), before) if torch.equal(p, b)])\n"
         "print(all(p.grad"),
    )  # fmt: skip
    ran = forks.run(tmp_path, script, "freeze=[nw]*[me]")
    assert ran.lines[1] == "['wide.weight', 'norm.weight', 'norm.bias']"
    assert ran.lines[3].startswith("0 ")  # the norm has counted no batch


RECURRENT = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(6, 12, 4), torch.randn(6, 12, 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x, state=None):
        out, state = self.rnn(x, state)
        return self.head(out), state


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    state = None
    for part in range(3):
        out, state = net(x[:, 4 * part : 4 * part + 4], state)
        state = state.detach()
        loss = F.mse_loss(out, y[:, 4 * part : 4 * part + 4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item())
"""


def test_a_gru_becomes_an_lstm_whose_cell_is_carried(forks: Forks, tmp_path: Path) -> None:
    hand = changed(RECURRENT, ("state.detach()", "tuple(s.detach() for s in state)"))
    make = "net.rnn = nn.LSTM(4, 5, batch_first=True)"
    begin = "with torch.no_grad():\n    net.rnn.bias_ih_l0[5:10] = 2.0\n    net.rnn.bias_hh_l0[5:10] = 0.0\n"
    hand = changed(hand, ("optimizer =", seeded(make) + begin + "optimizer ="))
    ran = forks.run(tmp_path, RECURRENT, "recurrent=lstm", "forget-bias=2")
    assert ran.lines == forks.plain(tmp_path, hand)
    assert "rnn: GRU -> LSTM" in str(said(ran, "recurrent")) and "forget gates of rnn: bias 2" in str(
        said(ran, "forget-bias")
    )


def test_a_state_that_the_script_changes_is_refused(forks: Forks, tmp_path: Path) -> None:
    script = changed(
        RECURRENT,
        ("nn.GRU(4, 5, batch_first=True)", "nn.GRUCell(4, 5)"),
        ("out, state = self.rnn(x, state)", "state = x.new_ones(6, 5)\n        for t in range(4):\n"
         "            state = self.rnn(x[:, t], state * 0.9)\n        out = state.unsqueeze(1)"),
    )  # fmt: skip
    ran = forks.run(tmp_path, script, "recurrent=lstm")
    assert ran.code == 2 and ran.lines == []
    assert "the script changes the state of rnn between two steps" in ran.err
