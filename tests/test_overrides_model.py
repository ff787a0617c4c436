"""Overrides of the model and its loss: each gives what the same change written into the script gives."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from overridden import plain, run

from wellfit.errors import WellfitError
from wellfit.overrides.catalogue import parse

MLP = """
import copy, io, torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import relu

torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randint(0, 3, (64,))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.hidden = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.squash = nn.Tanh()
        self.last = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.squash(self.first(x))
        for layer in self.hidden:
            x = relu(layer(x))
        return self.head(self.last(x).relu())


net = Net()
target = copy.deepcopy(net)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for _ in range(5):
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
target(x)
target.load_state_dict(net.state_dict())
assert torch.equal(target.eval()(x), net.eval()(x))
twin = copy.deepcopy(net)
assert torch.equal(twin(x), net(x))
torch.save(net, io.BytesIO())
print(torch.rand(1).item())
"""

SEEDED = """
state = torch.get_rng_state()
torch.manual_seed(0)
{}
torch.set_rng_state(state)
"""


def by_hand(script: str, *changes: tuple[str, str]) -> str:
    """A script with a change written in."""
    script = dedent(script)
    for old, new in changes:
        assert old in script
        script = script.replace(old, new)
    return script


def test_he_draws_for_the_activation_that_follows(tmp_path: Path) -> None:
    draw = """
for layer, gain in [(net.first, 5 / 3), *((m, 2**0.5) for m in (*net.hidden, net.last)), (net.head, 1.0)]:
    nn.init.normal_(layer.weight, 0.0, gain / layer.in_features**0.5)
    nn.init.zeros_(layer.bias)
"""
    hand = by_hand(MLP, ("target = copy", SEEDED.format(draw) + "target = copy"))
    ran = run(tmp_path, MLP, "init=he")
    assert ran.lines == plain(tmp_path, hand)
    assert "gain for relu, tanh" in ran.err
    assert ran.record is not None and ran.code == 0


def test_lsuv_gives_unit_variance_and_zeros_give_no_gradient(tmp_path: Path) -> None:
    look = by_hand(
        MLP,
        ("print(loss.item())", "print(*out, sum(float(p.grad.abs().sum()) for p in [*net.parameters()][:-1]))"),
        (
            "for _ in range(5):",
            """out = []
def note(module, inputs, output):
    out.append(f"{output.var():.2f}")
net(x)
handles = [m.register_forward_hook(note) for m in (net.first, *net.hidden, net.last, net.head)]
net(x)
for handle in handles:
    handle.remove()
for _ in range(5):""",
        ),
    )
    first = run(tmp_path, look, "init=lsuv").lines[0].split()
    assert first[:5] == ["1.00"] * 5
    zeros = run(tmp_path, look, "init=zeros").lines
    assert [line.split()[-1] for line in zeros[:5]] == ["0.0"] * 5


def test_hidden_activations_are_exchanged_wherever_they_are_called(tmp_path: Path) -> None:
    hand = by_hand(
        MLP,
        ("relu(layer(x))", "F.silu(layer(x))"),
        ("self.last(x).relu()", "F.silu(self.last(x))"),
        ("nn.Tanh", "nn.SiLU"),
    )
    ran = run(tmp_path, MLP, "activation=silu")
    assert ran.lines == plain(tmp_path, hand)
    assert ran.record is not None
    assert ran.record.layers["squash"].class_name == "SiLU"


LOOP = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.rand(64, 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 7), nn.Linear(7, 7), nn.Linear(7, 3)])
        self.gate = nn.Linear(7, 7)

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = torch.sigmoid(layer(x))
            if number == 1:
                x = x * torch.sigmoid(self.gate(x))
        return x


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
for _ in range(5):
    loss = F.mse_loss(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
"""


def test_the_end_of_the_model_and_gates_keep_their_function(tmp_path: Path) -> None:
    # x of the second layer is multiplied too: it goes through the gate, and is left as one.
    hand = by_hand(
        LOOP, ("x = torch.sigmoid(layer(x))", "x = (torch.tanh if number == 0 else torch.sigmoid)(layer(x))")
    )
    ran = run(tmp_path, LOOP, "activation=tanh")
    assert ran.lines == plain(tmp_path, hand)
    assert "no layer follows it" in ran.err and "as a gate is" in ran.err


def test_maxout_has_pieces(tmp_path: Path) -> None:
    script = MLP + "print(sorted(net.state_dict())[:4], net.first(x).shape)\n"
    ran = run(tmp_path, script, "activation=maxout,pieces:3", "init=he")
    assert ran.code == 0
    assert "'first.maxout_pieces.0.weight', 'first.maxout_pieces.1.bias'" in ran.lines[-1]
    assert ran.lines[-1].endswith("torch.Size([64, 16])")
    assert float(ran.lines[4]) < float(ran.lines[0])


def test_norms_are_put_in_and_taken_away(tmp_path: Path) -> None:
    norms = "\n        ".join(f"self.norm{i} = nn.LayerNorm(16)" for i in range(4))
    hand = by_hand(
        MLP,
        ("        self.head =", f"        {norms}\n        self.head ="),
        ("self.squash(self.first(x))", "self.squash(self.norm0(self.first(x)))"),
        ("for layer in self.hidden", "for layer, norm in zip(self.hidden, (self.norm1, self.norm2))"),
        ("relu(layer(x))", "relu(norm(layer(x)))"),
        ("self.last(x)", "self.norm3(self.last(x))"),
    )
    assert run(tmp_path, MLP, "norm=layer").lines == plain(tmp_path, hand)
    taken = run(tmp_path, hand, "norm=none")
    assert taken.lines == plain(tmp_path, MLP)
    assert "norm0, norm1, norm2, norm3: taken away" in taken.err


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


def test_widths_follow_through_sums_flatten_and_concatenation(tmp_path: Path) -> None:
    hand = by_hand(
        CNN, ("Conv2d(1, 4", "Conv2d(1, 8"), ("Conv2d(4, 4", "Conv2d(8, 8"), ("Conv2d(4, 6", "Conv2d(8, 12"),
        ("BatchNorm2d(6)", "BatchNorm2d(12)"), ("Conv1d(6, 5", "Conv1d(12, 10"), ("LSTM(6, 7", "LSTM(12, 14"),
        ("6 * 16 + 5 + 14, 10", "12 * 16 + 10 + 28, 20"), ("Linear(10, 3)", "Linear(20, 3)"),
    )  # fmt: skip
    ran = run(tmp_path, CNN, "width=2")
    shapes = ran.lines[0]
    assert shapes == plain(tmp_path, hand)[0]
    assert ran.lines[1:] == plain(tmp_path, CNN)[1:]  # nothing of the trials is left, in no statistics or stream
    assert "stem, inner: 4 -> 8 units" in ran.err
    assert ran.record is not None
    assert ran.record.layers["full"].attributes["in_features"] == 12 * 16 + 10 + 28


def test_batch_norm_goes_in_with_the_statistics_of_the_first_batch(tmp_path: Path) -> None:
    script = by_hand(
        CNN, ("before = [p.clone() for p in net.parameters()]\n", "net.eval()\nwith torch.no_grad():\n    net(x)\n"
        "    out = nn.Conv2d.forward(net.stem, x)\n    norm = net.stem.added_norm\n"
        "    print(torch.allclose(norm.running_mean, out.mean((0, 2, 3))),"
         " torch.allclose(norm.running_var, out.var((0, 2, 3))))\n"
        "    print([n for n, _ in net.named_buffers() if 'mean' in n])\n"
        "    net.train()\n"),
    )  # fmt: skip
    ran = run(tmp_path, script, "norm=batch,where:insert")
    assert ran.lines[0] == "True True"
    names = ("stem.added_norm", "inner.added_norm", "norm", "side.added_norm", "full.added_norm")
    assert ran.lines[1] == str([f"{name}.running_mean" for name in names])
    assert "wide" in ran.err and ran.lines[-1].endswith("True")


def test_a_way_around_hidden_layers(tmp_path: Path) -> None:
    hand = by_hand(MLP, ("relu(layer(x))", "relu(x + layer(x))"), ("self.last(x)", "(x + self.last(x))"))
    ran = run(tmp_path, MLP, "residual")
    assert ran.lines == plain(tmp_path, hand)
    assert "a way around hidden.0, hidden.1, last" in ran.err


def test_dropout_is_put_in_or_set(tmp_path: Path) -> None:
    hand = by_hand(
        MLP,
        ("relu(layer(x))", "relu(layer(F.dropout(x, 0.2, self.training)))"),
        ("self.last(x)", "self.last(F.dropout(x, 0.2, self.training))"),
    )
    hand = hand.replace(
        "return self.head(self.last(F.dropout(x, 0.2, self.training)).relu())",
        "x = self.last(F.dropout(x, 0.2, self.training)).relu()\n"
        "        return self.head(F.dropout(x, 0.2, self.training))",
    )
    assert run(tmp_path, MLP, "dropout=0.2").lines == plain(tmp_path, hand)
    ran = run(tmp_path, hand, "dropout=0.4")
    assert ran.lines == plain(tmp_path, hand.replace("0.2", "0.4"))


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


def test_a_gru_becomes_an_lstm_whose_cell_is_carried(tmp_path: Path) -> None:
    hand = by_hand(RECURRENT, ("state.detach()", "tuple(s.detach() for s in state)"))
    make = "net.rnn = nn.LSTM(4, 5, batch_first=True)"
    begin = "with torch.no_grad():\n    net.rnn.bias_ih_l0[5:10] = 2.0\n    net.rnn.bias_hh_l0[5:10] = 0.0\n"
    hand = by_hand(hand, ("optimizer =", SEEDED.format(make) + begin + "optimizer ="))
    ran = run(tmp_path, RECURRENT, "recurrent=lstm", "forget-bias=2")
    assert ran.lines == plain(tmp_path, hand)
    assert "rnn: GRU -> LSTM" in ran.err and "forget gates of rnn: bias 2" in ran.err


def test_a_state_that_the_script_changes_is_refused(tmp_path: Path) -> None:
    script = by_hand(
        RECURRENT,
        ("nn.GRU(4, 5, batch_first=True)", "nn.GRUCell(4, 5)"),
        ("out, state = self.rnn(x, state)", "state = x.new_ones(6, 5)\n        for t in range(4):\n"
         "            state = self.rnn(x[:, t], state * 0.9)\n        out = state.unsqueeze(1)"),
    )  # fmt: skip
    ran = run(tmp_path, script, "recurrent=lstm")
    assert ran.code == 2 and ran.lines == []
    assert "the script changes the state of rnn between two steps" in ran.err


def test_frozen_parameters_and_statistics_stay(tmp_path: Path) -> None:
    script = by_hand(
        CNN,
        ("optimizer = torch.optim.SGD(net.parameters(), lr=0.05)",
         "optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.5)"),
        ("print(all(p.grad", "print([n for (n, p), b in zip(net.named_parameters(), before) if torch.equal(p, b)])\n"
         "print(all(p.grad"),
    )  # fmt: skip
    ran = run(tmp_path, script, "freeze=[nw]*[me]")
    assert ran.lines[1] == "['wide.weight', 'norm.weight', 'norm.bias']"
    assert ran.lines[3].startswith("0 ")  # the norm has counted no batch


HEADS = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
b = (x[:, :1] > 0).float()
many = nn.Sequential(nn.Linear(6, 3), nn.Softmax(dim=1))
plain = nn.Linear(6, 3)
one = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())
optimizer = torch.optim.SGD([*many.parameters(), *plain.parameters(), *one.parameters()], lr=0.5)
for _ in range(3):
    losses = [F.cross_entropy(many(x), y), F.nll_loss(plain(x), y), F.binary_cross_entropy(one(x).squeeze(1), b[:, 0])]
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
    print([loss.item() for loss in losses], many(x).sum().item())
"""


def test_losses_get_what_they_expect(tmp_path: Path) -> None:
    hand = by_hand(
        HEADS,
        ("cross_entropy(many(x)", "cross_entropy(many[0](x)"),
        ("nll_loss(plain(x)", "nll_loss(plain(x).log_softmax(1)"),
        ("F.binary_cross_entropy(one(x)", "F.binary_cross_entropy_with_logits(one[0](x)"),
    )
    ran = run(tmp_path, HEADS, "loss=pair")
    assert ran.lines == plain(tmp_path, hand)
    assert "gets the raw scores instead of softmax's output" in ran.err


def test_another_loss(tmp_path: Path) -> None:
    script = by_hand(MLP, ("F.cross_entropy(net(x), y)", "F.cross_entropy(net(x), y, reduction='sum')"))
    hand = by_hand(
        MLP,
        ("F.cross_entropy(net(x), y)", "F.smooth_l1_loss(net(x).softmax(1), F.one_hot(y).float(), reduction='sum')"),
    )
    assert run(tmp_path, script, "loss=smooth-l1").lines == plain(tmp_path, hand)


LINEAR = """
import torch
from torch import nn

net = nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(2):
    loss = nn.functional.mse_loss(net(torch.ones(3, 4)), torch.zeros(3, 2))
    loss.backward()
    optimizer.step()
    print("trained")
"""


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("init=he,layers:fc*", "no model has a layer of that name with weights"),
        ("activation=relu", "no model has an activation function between two layers"),
        ("norm=layer", "it gives the model's output"),
        ("residual", "no model has a hidden layer that keeps its input's shape"),
        ("dropout=0.3", "no model has dropout, nor a hidden activation before a layer"),
        ("width=2", "it gives (a part of) the model's output"),
        ("recurrent=gru", "no model has a recurrent layer of another kind"),
        ("forget-bias=1", "no model has an LSTM layer with a bias"),
        ("freeze=encoder", "no parameter or module has such a name"),
        ("loss=cross-entropy", "its targets are no classes"),
    ],
)
def test_where_there_is_nothing_to_change_nothing_is_trained(tmp_path: Path, override: str, sentence: str) -> None:
    ran = run(tmp_path, LINEAR, override)
    assert ran.code == 2 and ran.out == ""
    assert sentence in ran.err


def test_a_compiled_model_is_refused(tmp_path: Path) -> None:
    ran = run(tmp_path, MLP.replace("net = Net()", "net = Net()\nnet.compile()"), "norm=layer")
    assert ran.code == 2 and ran.out == ""
    assert "the model is compiled" in ran.err


@pytest.mark.parametrize(
    "text",
    ["init=kaiming", "init=normal", "init=scale", "init=he,std:0.1", "init=scale,factor:-1", "activation=sine",
     "activation=maxout,pieces:1", "norm=power", "norm=none,where:insert", "norm=weight,where:exchange",
     "norm=group,groups:0", "dropout=1", "dropout=-0.1", "width=0", "width=30", "recurrent=transformer",
     "forget-bias=21", "freeze", "loss=hinge", "residual=1"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(WellfitError):
        parse([text])
