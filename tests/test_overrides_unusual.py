"""Overrides of models that are written in unusual ways: what can be changed is, and the rest is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Forks
from overridden import Run
from written import changed, said, seeded

HEAD = """
import copy
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import relu

torch.manual_seed(0)
# parts
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # layers
    def forward(self, x):
        # forward
x, y = torch.randn(32, 8), torch.randint(0, 2, (32,))
net = Net()
# made
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(3):
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(loss.item())
# trained
"""


def net(layers: str, forward: str, parts: str = "", made: str = "") -> str:
    """A script that trains a model."""
    script = changed(HEAD, ("# layers", layers), ("# forward", forward), ("# made", made))
    return script.replace("# parts", parts)


THREE = "self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)"
FORWARD = "a = relu(self.first(input=x)); b = relu(self.second(input=a)); return self.head(input=b)"
NAMED = net(THREE, FORWARD)


@pytest.mark.parametrize(
    ("override", "forward"),
    [
        ("residual", "a = relu(self.first(x)); b = relu(a + self.second(a)); return self.head(b)"),
        (
            "dropout=0.2",
            "a = F.dropout(relu(self.first(x)), 0.2); b = F.dropout(relu(self.second(a)), 0.2); return self.head(b)",
        ),
    ],
)
def test_layers_that_are_given_their_input_by_name(forks: Forks, tmp_path: Path, override: str, forward: str) -> None:
    ran = forks.run(tmp_path, NAMED, override)
    assert ran.code == 0 and ran.lines == forks.plain(tmp_path, net(THREE, forward)), ran.err


@pytest.mark.parametrize("override", ["activation=maxout", "norm=batch", "width=2"])
def test_it_makes_no_difference_how_an_input_is_given(run: Run, override: str) -> None:
    ran = run(NAMED, override)
    assert ran.code == 0 and ran.lines == run(NAMED.replace("input=", ""), override).lines, ran.err


def test_a_norm_that_is_given_its_input_by_name(run: Run) -> None:
    script = net(THREE + "; self.norm = nn.LayerNorm(8)", "return self.head(relu(self.norm(input=self.first(x))))")
    for override in ("norm=batch", "width=2"):
        ran = run(script, override)
        assert ran.code == 0 and ran.lines == run(script.replace("input=", ""), override).lines, ran.err


def test_modules_that_are_also_kept_in_a_list_stay(run: Run) -> None:
    layers = f"{THREE}; self.act, self.norm, self.other = nn.ReLU(), nn.BatchNorm1d(8), nn.ReLU()"
    layers += "; self.steps = [self.first, self.norm, self.act]"
    script = net(layers, "for step in self.steps: x = step(x); return self.head(self.other(self.second(x)))")
    script = script.replace(
        "# trained", "print(net.act, net.steps[2], net.act is net.steps[2], net.norm is net.steps[1])"
    )
    for override in ("activation=tanh", "activation=maxout"):
        ran = run(script, override)
        made, left = said(ran, "activation")
        assert ran.lines[-1] == "ReLU() ReLU() True True" and made == [f"other: ReLU -> {override.split('=')[1]}"], (
            ran.err
        )
        assert left == [("act", "the script also keeps it outside of the model, and calls it there")]
    ran = run(script, "norm=layer")
    assert ran.code == 2 and "norm: the script also keeps it outside of the model" in ran.err


def test_recurrent_layers_that_are_also_kept_in_a_list_stay(run: Run) -> None:
    layers = f"{THREE}; self.rnn, self.gru = nn.RNN(8, 8), nn.GRU(8, 8); self.all = [self.rnn]"
    ran = run(net(layers, "return self.head(self.gru(self.all[0](self.first(x))[0])[0])"), "recurrent=lstm")
    assert said(ran, "recurrent")[0] == ["gru: GRU -> LSTM"], ran.err
    assert said(ran, "recurrent")[1] == [("rnn", "the script also keeps it outside of the model, and calls it there")]


def test_an_activation_made_in_the_forward_pass_is_named(run: Run) -> None:
    ran = run(net(THREE, "x = relu(self.first(x)); return self.head(nn.ReLU()(self.second(x)))"), "activation=tanh")
    assert said(ran, "activation")[1] == [("ReLU at train.py:16", "the model does not hold it")], ran.err
    assert said(ran, "activation")[0] == ["relu at train.py:15 -> tanh"]


ENCODER = net(
    "layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True); self.encoder = nn.TransformerEncoder(layer, 2); "
    "self.head = nn.Linear(8, 2)",
    "mask = torch.zeros(32, 4, dtype=torch.bool); mask[:, 3] = True; x = x.view(32, 1, 8).expand(-1, 4, -1); "
    "return self.head(self.encoder(x, src_key_padding_mask=mask).mean(1))",
).replace("# trained", "net.eval()\nwith torch.no_grad(): print(net(x).shape, net.encoder.use_nested_tensor)")


@pytest.mark.parametrize("first", ["", "net.eval()\nwith torch.no_grad(): net(x)\nnet.train()\n"])
@pytest.mark.parametrize(
    "override",
    ["norm=batch", "norm=layer,where:insert", "activation=tanh", "detach=encoder.layers.0.norm1", "width=2"],
)
def test_a_changed_transformer_is_evaluated(run: Run, override: str, first: str) -> None:
    ran = run(ENCODER.replace("optimizer = ", f"{first}optimizer = "), override)
    assert ran.code == 0, ran.err
    # Other sizes are no obstacle for the fast path, other modules are.
    assert ran.lines[-1] == f"torch.Size([32, 2]) {override == 'width=2'}"


def test_a_transformer_that_has_the_function_already_is_left(run: Run) -> None:
    ran = run(ENCODER, "activation=relu")
    assert ran.code == 0 and ran.lines == run(ENCODER).lines
    assert said(ran, "activation") == (
        [],
        [(f"relu of encoder.layers.{number}", "it is relu already") for number in range(2)],
    )


@pytest.mark.parametrize("override", ["activation=tanh", "dropout=0.4", "loss"])
def test_scripted_functions_are_compiled_as_ever(run: Run, override: str) -> None:
    parts = """
@torch.jit.script
def scripted(x):
    x = relu(x) + F.leaky_relu(x) * torch.sigmoid(x) - torch.tanh(F.dropout(x, 0.0)) + F.silu(x)
    return x * F.softmax(x, dim=1) + torch.softmax(x, 1) + torch.dropout(x, 0.0, True)
"""
    script = net(THREE, "return torch.softmax(self.head(relu(self.second(relu(self.first(scripted(x)))))), 1)", parts)
    hand = script.replace("@torch.jit.script", "").replace("def scripted", "scripted = lambda x: x\ndef other")
    ran = run(script, override)
    assert ran.code == 0, ran.err
    assert run(hand, override).lines != ran.lines


OWN = """
class Own(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.W, self.b = nn.Parameter(torch.randn(o, i)), nn.Parameter(torch.ones(o))
    def forward(self, x):
        return F.linear(x, self.W, self.b)
"""


def test_weights_with_other_names_are_set_and_biases_left(forks: Forks, tmp_path: Path) -> None:
    script = net("self.first, self.head = Own(8, 8), nn.Linear(8, 2)", "return self.head(relu(self.first(x)))", OWN)
    draw = (
        "nn.init.normal_(net.first.W, 0, 0.3); nn.init.normal_(net.head.weight, 0, 0.3); nn.init.zeros_(net.head.bias)"
    )
    hand = script.replace("net = Net()", "net = Net()\n" + seeded(draw))
    assert forks.run(tmp_path, script, "init=normal,std:0.3").lines == forks.plain(tmp_path, hand)


@pytest.mark.parametrize("norm", ["nn.utils.weight_norm", "nn.utils.parametrizations.weight_norm"])
def test_weights_that_are_computed_from_others_are_left(forks: Forks, tmp_path: Path, norm: str) -> None:
    script = net(THREE + f"; {norm}(self.second)", "return self.head(relu(self.second(relu(self.first(x)))))")
    draw = "nn.init.normal_(net.first.weight, 0, 0.3); nn.init.normal_(net.head.weight, 0, 0.3)"
    hand = script.replace(
        "net = Net()", "net = Net()\n" + seeded(f"{draw}; net.first.bias.data.zero_(); net.head.bias.data.zero_()")
    )
    ran = forks.run(tmp_path, script, "init=normal,std:0.3")
    assert ran.lines == forks.plain(tmp_path, hand), ran.err
    assert "computed from it and other parameters" in str(said(ran, "init")[1])
    for override in ("width=2", "activation=maxout"):
        ran = forks.run(tmp_path, script, override)
        assert ran.code == (2 if "width" in override else 0) and "KeyError" not in ran.err, ran.err


def test_a_shared_weight_is_set_once(forks: Forks, tmp_path: Path) -> None:
    script = net(
        THREE + "; self.second.weight = self.first.weight", "return self.head(relu(self.second(relu(self.first(x)))))"
    )
    hand = script.replace("net = Net()", "net = Net(); [m.weight.data.mul_(0.1) for m in (net.first, net.head)]")
    ran = forks.run(tmp_path, script, "init=scale,factor:0.1")
    assert ran.lines == forks.plain(tmp_path, hand)
    assert said(ran, "init")[1] == [("second", "its weight is that of first")]


def test_a_shared_weight_is_frozen_by_any_of_its_names(run: Run) -> None:
    script = net(
        THREE + "; self.second.weight = self.first.weight", "return self.head(relu(self.second(relu(self.first(x)))))"
    )
    script += "print([name for name, p in net.named_parameters() if not p.requires_grad])"
    assert run(script, "freeze=second").lines[-1] == "['first.weight', 'second.bias']"


def test_few_digits_are_enough_for_an_orthogonal_matrix(run: Run) -> None:
    script = net(THREE, "return self.head(relu(self.first(x.bfloat16()))).float()").replace(
        "Net()\n", "Net().bfloat16()\n"
    )
    script = script.replace(
        "# trained", "w = net.second.weight.float(); print((w @ w.T - torch.eye(8)).abs().max().item() < 0.02)"
    )
    ran = run(script, "init=orthogonal")
    assert ran.code == 0 and ran.lines[-1] == "True", ran.err


def test_a_recurrent_layer_of_the_scripts_own_gets_another_width(run: Run) -> None:
    own = "class Own(nn.LSTM):\n    def __init__(self, size): super().__init__(size, size, batch_first=True)\n"
    script = net(THREE + "; self.rnn = Own(8)", "return self.head(self.rnn(relu(self.first(x)))[0])", own)
    ran = run(script, "width=2")
    assert said(ran, "width")[0] == ["first: 8 -> 16 units", "rnn: 8 -> 16 units"], ran.err


LAZY = net(
    "self.first, self.second, self.head = nn.LazyLinear(8), nn.Linear(8, 8), nn.LazyLinear(2)",
    "return self.head(relu(self.second(relu(self.first(x)))))",
    made="net(x[:1])",
)
BESIDE = "net(x[:1]); other = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))"


@pytest.mark.parametrize("override", ["init=he", "init=zeros", "dead-bias", "residual", "width=2", "dropout=0.2"])
def test_a_lazy_model_is_left_as_it_is(run: Run, override: str) -> None:
    ran = run(LAZY, override)
    assert ran.code == 2 and "first is lazy: before its first call its sizes are not known" in ran.err
    ran = run(LAZY.replace("net(x[:1])", f"{BESIDE}; other(x)"), override)
    assert ran.code == 0 and ran.lines == run(LAZY.replace("net(x[:1])", BESIDE), "lr=0.1").lines, ran.err


def test_a_lazy_layer_is_frozen(run: Run) -> None:
    script = LAZY.replace("# trained", "print([name for name, p in net.named_parameters() if not p.requires_grad])")
    assert run(script, "freeze=first").lines[-1] == "['first.weight', 'first.bias']"


def test_a_state_detached_in_place_carries_its_cell(forks: Forks, tmp_path: Path) -> None:
    script = """
import torch
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8), nn.Linear(8, 4)
    def forward(self, x, h):
        out, h = self.rnn(x, h)
        return self.head(out), h
net, h = Net(), torch.zeros(1, 6, 8)
# made
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(4):
    x = torch.randn(5, 6, 4)
    out, h = net(x, h)
    loss = nn.functional.mse_loss(out, x)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    h.detach_()
    print(loss.item())
"""
    hand = changed(
        script,
        ("    h.detach_()", "    h = tuple(s.detach() for s in h)"),
        ("torch.zeros(1, 6, 8)", "(torch.zeros(1, 6, 8),) * 2"),
        ("# made\n", seeded("net.rnn = nn.LSTM(4, 8)")),
    )
    ran = forks.run(tmp_path, script, "recurrent=lstm")
    assert ran.code == 0 and ran.lines == forks.plain(tmp_path, hand), ran.err


def test_a_mode_is_corrected_where_several_losses_go_back(run: Run) -> None:
    script = net(THREE + "; self.drop = nn.Dropout()", "return self.head(self.drop(relu(self.first(x))))")
    ran = run(
        script.replace("Net()\n", "Net().eval()\n").replace("loss.backward()", "torch.autograd.backward([loss])"),
        "mode=correct",
    )
    assert any("train mode from the second pass on" in what for what in said(ran, "mode")[0]), ran.err
