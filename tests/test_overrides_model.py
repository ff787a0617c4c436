"""Overrides of the model: each gives what the same change written into the script gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks
from overridden import run
from written import changed, said, seeded

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


LAYERS = "net.first, *net.hidden, net.last, net.head"


def test_he_draws_for_the_activation_that_follows(forks: Forks, tmp_path: Path) -> None:
    draw = """
for layer, gain in [(net.first, 5 / 3), *((m, 2**0.5) for m in (*net.hidden, net.last)), (net.head, 1.0)]:
    nn.init.normal_(layer.weight, 0.0, gain / layer.in_features**0.5)
    nn.init.zeros_(layer.bias)
"""
    hand = changed(MLP, ("target = copy", seeded(draw) + "target = copy"))
    ran = run(tmp_path, MLP, "init=he")
    assert ran.lines == forks.plain(tmp_path, hand)
    assert "gain for relu, tanh" in ran.err
    assert ran.record is not None and ran.code == 0


@pytest.mark.parametrize(
    ("override", "layers", "draw", "what"),
    [
        ("init=xavier", LAYERS, "nn.init.xavier_uniform_(layer.weight)", "xavier"),
        ("init=normal,std:0.02", LAYERS, "nn.init.normal_(layer.weight, 0.0, 0.02)", "normal, standard deviation 0.02"),
        ("init=normal,std:2,layers:h*", "*net.hidden, net.head", "nn.init.normal_(layer.weight, 0.0, 2.0)", "hidden.0"),
        ("init=orthogonal,layers:last", "net.last", "nn.init.orthogonal_(layer.weight, 2**0.5)", "(gain for relu)"),
        ("init=scale,factor:0.1", LAYERS, "layer.weight.data.mul_(0.1)", "times 0.1"),
    ],
)
def test_weights_are_those_drawn_by_hand(
    forks: Forks, tmp_path: Path, override: str, layers: str, draw: str, what: str
) -> None:
    bias = "" if "scale" in override else "; nn.init.zeros_(layer.bias)"
    hand = changed(MLP, ("target = copy", seeded(f"for layer in [{layers}]:\n    {draw}{bias}") + "target = copy"))
    ran = forks.run(tmp_path, MLP, override)
    assert ran.lines == forks.plain(tmp_path, hand) != forks.plain(tmp_path, MLP)
    assert what in said(ran, "init")[0][0]


def test_lsuv_gives_unit_variance_and_zeros_give_no_gradient(forks: Forks, tmp_path: Path) -> None:
    look = changed(
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
    first = forks.run(tmp_path, look, "init=lsuv").lines[0].split()
    assert first[:5] == ["1.00"] * 5
    zeros = forks.run(tmp_path, look, "init=zeros").lines
    assert [line.split()[-1] for line in zeros[:5]] == ["0.0"] * 5


def test_hidden_activations_are_exchanged_wherever_they_are_called(forks: Forks, tmp_path: Path) -> None:
    hand = changed(
        MLP,
        ("relu(layer(x))", "F.silu(layer(x))"),
        ("self.last(x).relu()", "F.silu(self.last(x))"),
        ("nn.Tanh", "nn.SiLU"),
    )
    ran = forks.run(tmp_path, MLP, "activation=silu")
    assert ran.lines == forks.plain(tmp_path, hand)
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


def test_the_end_of_the_model_and_gates_keep_their_function(forks: Forks, tmp_path: Path) -> None:
    # x of the second layer is multiplied too: it goes through the gate, and is left as one.
    hand = changed(
        LOOP, ("x = torch.sigmoid(layer(x))", "x = (torch.tanh if number == 0 else torch.sigmoid)(layer(x))")
    )
    ran = forks.run(tmp_path, LOOP, "activation=tanh")
    assert ran.lines == forks.plain(tmp_path, hand)
    left = str(said(ran, "activation")[1])
    assert "no layer follows it" in left and "as a gate is" in left


def test_maxout_has_pieces(forks: Forks, tmp_path: Path) -> None:
    script = MLP + "print(sorted(net.state_dict())[:4], net.first(x).shape)\n"
    ran = forks.run(tmp_path, script, "activation=maxout,pieces:3", "init=he")
    assert ran.code == 0
    assert "'first.maxout_pieces.0.weight', 'first.maxout_pieces.1.bias'" in ran.lines[-1]
    assert ran.lines[-1].endswith("torch.Size([64, 16])")
    assert float(ran.lines[4]) < float(ran.lines[0])


def test_norms_are_put_in_and_taken_away(forks: Forks, tmp_path: Path) -> None:
    norms = "\n        ".join(f"self.norm{i} = nn.LayerNorm(16)" for i in range(4))
    hand = changed(
        MLP,
        ("        self.head =", f"        {norms}\n        self.head ="),
        ("self.squash(self.first(x))", "self.squash(self.norm0(self.first(x)))"),
        ("for layer in self.hidden", "for layer, norm in zip(self.hidden, (self.norm1, self.norm2))"),
        ("relu(layer(x))", "relu(norm(layer(x)))"),
        ("self.last(x)", "self.norm3(self.last(x))"),
    )
    assert forks.run(tmp_path, MLP, "norm=layer").lines == forks.plain(tmp_path, hand)
    taken = forks.run(tmp_path, hand, "norm=none")
    assert taken.lines == forks.plain(tmp_path, MLP)
    assert "norm0, norm1, norm2, norm3: taken away" in str(said(taken, "norm"))


def test_a_way_around_hidden_layers(forks: Forks, tmp_path: Path) -> None:
    hand = changed(MLP, ("relu(layer(x))", "relu(x + layer(x))"), ("self.last(x)", "(x + self.last(x))"))
    ran = forks.run(tmp_path, MLP, "residual")
    assert ran.lines == forks.plain(tmp_path, hand)
    assert said(ran, "residual")[0] == ["a way around hidden.0, hidden.1, last"]


def test_dropout_is_put_in_or_set(forks: Forks, tmp_path: Path) -> None:
    hand = changed(
        MLP,
        ("relu(layer(x))", "relu(layer(F.dropout(x, 0.2, self.training)))"),
        ("self.last(x)", "self.last(F.dropout(x, 0.2, self.training))"),
    )
    hand = hand.replace(
        "return self.head(self.last(F.dropout(x, 0.2, self.training)).relu())",
        "x = self.last(F.dropout(x, 0.2, self.training)).relu()\n"
        "        return self.head(F.dropout(x, 0.2, self.training))",
    )
    assert forks.run(tmp_path, MLP, "dropout=0.2").lines == forks.plain(tmp_path, hand)
    ran = forks.run(tmp_path, hand, "dropout=0.4")
    assert ran.lines == forks.plain(tmp_path, hand.replace("0.2", "0.4"))


def test_a_compiled_model_is_refused(forks: Forks, tmp_path: Path) -> None:
    ran = forks.run(tmp_path, MLP.replace("net = Net()", "net = Net()\nnet.compile()"), "norm=layer")
    assert ran.code == 2 and ran.out == ""
    assert "the model is compiled" in ran.err


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
def test_where_there_is_nothing_to_change_nothing_is_trained(
    forks: Forks, tmp_path: Path, override: str, sentence: str
) -> None:
    ran = forks.run(tmp_path, LINEAR, override)
    assert ran.code == 2 and ran.out == ""
    assert sentence in ran.err


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
