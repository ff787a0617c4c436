"""What a model costs, and which channels go: counts against formulas, times against models of known slowness."""

from __future__ import annotations

import random
import sys
from typing import NamedTuple

import numpy as np
import pytest
import slim_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wellfit.errors import WellfitError
from wellfit.slim.changes import Unfit
from wellfit.slim.changes.cut import Cut
from wellfit.slim.measure import Inputs, by_layer, compare, cost, latency, size
from wellfit.slim.measure.running import plain_operations
from wellfit.slim.methods.choice import choose, is_faster
from wellfit.slim.methods.coupled import coupling
from wellfit.slim.methods.importance import by_output, importance, magnitude, scale, taylor
from wellfit.slim.methods.structured import prune


def test_cost_of_lenet():
    """Counted by hand: each number that comes out, times the weights that it meets."""
    model = slim_models.LeNet()
    found = cost(model, Inputs((torch.randn(2, 1, 28, 28),)))
    by_name = {layer.name: layer for layer in found.layers}
    assert {name: layer.multiply_adds for name, layer in by_name.items()} == {
        "conv1": 2 * 24 * 24 * 6 * 25,
        "conv2": 2 * 8 * 8 * 8 * 6 * 25,
        "fc1": 2 * 128 * 20,
        "fc2": 2 * 20 * 10,
    }
    assert by_name["conv1"].parameters == 6 * 25 + 6 and by_name["conv1"].weight_bytes == 4 * 156
    assert by_name["conv2"].output_bytes == 4 * 2 * 8 * 8 * 8 and by_name["fc2"].kind == "Linear"
    assert found.parameters == sum(p.numel() for p in model.parameters()) and not found.unused
    assert model.training


def test_cost_of_recurrence():
    """An LSTM: 4 gates x hidden x (input + hidden) a step, both ways, two layers."""
    model = slim_models.LstmClassifier()
    found = {layer.name: layer for layer in cost(model, Inputs((torch.randint(0, 20, (3, 7)),))).layers}
    assert found["rnn"].multiply_adds == 3 * 7 * 2 * 4 * 8 * ((6 + 8) + (16 + 8))
    assert found["embed"].multiply_adds == 0 and found["embed"].parameters == 120


@pytest.mark.parametrize(
    "name", ["vgg", "separable", "unet", "encoder", "gpt-nano", "gated", "conv3d", "grouped-query"]
)
def test_cost_is_that_of_torchs_own_counter(name):
    model, example = slim_models.made(name)
    inputs = Inputs.of(example)
    with plain_operations(), FlopCounterMode(display=False) as counter:
        inputs.call(model.eval())
    found = cost(model, inputs)
    assert counter.get_total_flops() == 2 * found.multiply_adds and not found.unused


def test_cost_of_shared_and_unused_layers():
    model, example = slim_models.made("shared")
    model.idle = nn.Linear(3, 3)
    found = cost(model, Inputs.of(example))
    by_name = {layer.name: layer for layer in found.layers}
    assert by_name["body"].calls == 2 and by_name["body"].multiply_adds == 2 * 3 * 8 * 8
    assert by_name["third"].parameters == 0 and by_name["third"].multiply_adds == 3 * 8 * 8
    assert found.unused == ("idle",) and found.parameters == sum(p.numel() for p in model.parameters())


def test_size_counts_shared_tensors_once():
    model = slim_models.Gpt()
    found = size(model)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert (found.bytes, found.buffers) == (4 * found.parameters, 0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2).to(torch.bfloat16))
    model.register_buffer("left_out", torch.zeros(100), persistent=False)
    assert (size(model).bytes, size(model).buffers) == (4 * 6 + (4 * 6 + 8) + 2 * 8, 4 * 6 + 8)
    model = nn.Module()
    model.table = nn.Parameter(torch.eye(5).to_sparse())
    assert size(model).bytes == 5 * 4 + 2 * 5 * 8
    model.table = nn.Parameter(torch.eye(5).to_sparse_csc())
    assert size(model).bytes == 5 * 4 + 5 * 8 + 6 * 8


class Clock:
    """A clock that only models move, on a machine that gets slower and faster."""

    def __init__(self):
        self.now, self.reads = 0.0, 0

    def perf_counter(self):
        self.reads += 1
        return self.now

    def work(self, milliseconds):
        slowness = 1 + 5 * (self.reads // 40 % 2)
        self.now += slowness * milliseconds / 1000


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(sys.modules["wellfit.slim.measure.latency"], "time", made)
    return made


class Slow(nn.Module):
    def __init__(self, clock, milliseconds):
        super().__init__()
        self.work = lambda: clock.work(milliseconds)

    def forward(self, x):
        assert not torch.is_grad_enabled() and not self.training
        self.work()
        return x


def test_latency(clock):
    inputs = Inputs((torch.randn(4, 3),))
    model = nn.Sequential(Slow(clock, 2), nn.Dropout(0.5), Slow(clock, 6)).train()
    clock.reads = -1000  # quiet for as long as this takes
    clock.work = lambda milliseconds: setattr(clock, "now", clock.now + milliseconds / 1000)
    timing = latency(model, inputs, seconds=0.1)
    assert timing.p10 == pytest.approx(8) and timing.p50 == pytest.approx(8) and timing.p90 == pytest.approx(8)
    assert timing.batch == 4 and timing.calls == 13
    assert all(module.training for module in model.modules())
    layers = by_layer(model, inputs, batch=7, seconds=0.01)
    assert [(layer.name, layer.kind) for layer in layers] == [("0", "Slow"), ("1", "Dropout"), ("2", "Slow")]
    assert [layer.p50 for layer in layers] == pytest.approx([2, 0, 6])
    assert [layer.share for layer in layers] == pytest.approx([0.25, 0, 0.75])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_two_models_in_turn(clock):
    """The ratio is right though the machine is six times slower half of the time."""
    pair = compare(Slow(clock, 6), Slow(clock, 2), Inputs((torch.randn(1, 3),)), batch=32, seconds=5)
    assert pair.first.batch == pair.second.batch == 32 and pair.first.calls == pair.second.calls > 100
    assert pair.first.p90 > 5 * pair.first.p10 and pair.speedup == pytest.approx(3)
    assert compare(Slow(clock, 2), Slow(clock, 2), Inputs((torch.randn(1, 3),))).speedup == pytest.approx(1)


def test_long_calls_that_are_interrupted_more_often_make_the_other_model_no_faster(clock):
    """Another program takes 20 ms away, after every millisecond with a chance of 20 %: in three of four long calls, and
    in one of three short ones."""
    chance = random.Random(0)

    def work(milliseconds):
        taken = sum(20 for _ in range(milliseconds) if chance.random() < 0.2)
        clock.now += (milliseconds + taken) / 1000

    clock.work = work
    long, short, inputs = Slow(clock, 6), Slow(clock, 2), Inputs((torch.randn(1, 3),))
    pair = compare(long, short, inputs, seconds=10)
    assert pair.first.p50 > 10 * pair.second.p50, "by medians alone"
    assert pair.speedup == pytest.approx(3) and not pair.is_calm
    assert compare(short, long, inputs, seconds=10).speedup == pytest.approx(1 / 3)


def test_real_times():
    """Of this machine's own clock: a hundred times the work takes longer."""
    one, other = (nn.Sequential(nn.Linear(width, width), nn.ReLU()) for width in (1000, 1000))
    inputs = Inputs((torch.randn(1, 1000),))
    assert compare(nn.Sequential(*[one] * 100), other, inputs, seconds=0.2).speedup > 3
    assert latency(one, inputs, seconds=0.01).p50 > 0 and sum(t.p50 for t in by_layer(one, inputs, seconds=0.01)) > 0


class Pair(NamedTuple):
    one: torch.Tensor
    other: torch.Tensor


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 1))
def test_batches_of_any_size(count, batch, axis):
    """The first samples, over and over, in all that has the batch axis; the rest stays."""
    tensor = torch.arange(count * 6).reshape(count, 6) if axis == 0 else torch.arange(count * 6).reshape(6, count)
    mask = torch.zeros([count + 1] * 3)
    inputs = Inputs((tensor, {"pair": Pair(tensor + 1, mask)}, [3, "text"]), {"x": tensor}, axis)
    made = inputs.resized(batch)
    assert inputs.batch == count and made.batch == batch
    expected = tensor.index_select(axis, torch.arange(batch) % count)
    assert torch.equal(made.args[0], expected) and torch.equal(made.kwargs["x"], expected)
    assert torch.equal(made.args[1]["pair"].one, expected + 1) and made.args[1]["pair"].other is mask
    assert made.args[2] == [3, "text"]


def test_inputs_without_samples():
    with pytest.raises(WellfitError, match="no tensor with an axis 0"):
        Inputs.of((torch.tensor(1.0), 3)).resized(2)
    with pytest.raises(WellfitError, match="hold no sample"):
        Inputs.of(torch.zeros(0, 3)).resized(2)
    assert Inputs.of({"a": 1}).kwargs == {"a": 1} and Inputs.of(inputs := Inputs((1,))) is inputs


def test_importance_by_hand():
    """Of a network so small that each score can be written down."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]])
    model[0].bias.data = torch.tensor([0.0, 2.0, 1.0])
    model[1].weight.data = torch.tensor([[0.0, 2.0, -1.0]])
    inputs = Inputs((torch.tensor([[1.0, 1.0], [0.0, 1.0]]),))
    group = coupling(model, inputs).group("0")
    np.testing.assert_allclose(magnitude(model, group), [5, 3, 6**0.5])
    with pytest.raises(Unfit, match="no gradients"):
        taylor(model, group)
    inputs.call(model).sum().backward()
    # Of unit u: w . dL/dw + b dL/db + v dL/dv, each of the two terms being v times the sum of the unit's outputs.
    np.testing.assert_allclose(taylor(model, group), [0, 2 * 2 * 6, 2 * 1 * 4], rtol=1e-6)
    moved = by_output(model, inputs, group)
    outputs = np.array([2 * 3 - 3.0, 2 * 3 - 1.0])
    spread = outputs.std()
    expected = [0, (2 * 3) / spread, np.sqrt((9 + 1) / 2) / spread]
    np.testing.assert_allclose(moved, expected, rtol=1e-6)
    with pytest.raises(Unfit, match="no batch norm"):
        scale(model, group)
    with pytest.raises(WellfitError, match=r'there is no importance "magnitud".*did you mean "magnitude"'):
        importance(model, inputs, group, "magnitud")


def test_importance_by_scale():
    model, example = slim_models.made("vgg")
    model[1].weight.data = torch.tensor([0.1, -3.0, 0.5, 0.2, 0.3, 0.4, 0.6, 0.7])
    group = coupling(model, Inputs.of(example)).group("0")
    np.testing.assert_allclose(scale(model, group), model[1].weight.detach().abs().numpy())
    model.zero_grad()
    model(example).sum().backward()
    for by in ("magnitude", "scale", "taylor"):
        assert prune(model, Inputs.of(example), 0.5, by=by).cut is not None
    kept = prune(model, Inputs.of(example), 0.5, by="scale", scope="layer").kept["0"]
    assert kept == (1, 2, 6, 7)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=2), st.lists(st.floats(0, 1e6), min_size=1, max_size=20).map(np.array), min_size=1, max_size=4
    ),
    st.floats(0, 1),
    st.sampled_from(["global", "layer"]),
    st.sampled_from([1, 2, 8]),
)
def test_what_is_kept_matters_most(scores, share, scope, multiple):
    kept = choose(scores, share, scope=scope, multiple=multiple)
    assert kept.keys() == scores.keys()
    for name, channels in kept.items():
        values = scores[name]
        gone = sorted(set(range(len(values))) - set(channels))
        assert list(channels) == sorted(set(channels)) and channels
        assert len(channels) % multiple == 0 or not gone
        assert not gone or values[list(channels)].min() >= values[gone].max()
        if scope == "layer" and multiple == 1:
            assert len(channels) == max(1, len(values) - int(share * len(values)))
    if scope == "global" and multiple == 1:
        total = sum(len(values) for values in scores.values())
        assert sum(len(channels) for channels in kept.values()) >= total - int(share * total)


def test_a_layer_of_small_weights_is_not_emptied():
    scores = {"large": np.array([100.0, 50.0, 150.0, 10.0]), "small": np.array([0.1, 0.01, 0.2, 0.3])}
    assert choose(scores, 0.25) == {"large": (0, 1, 2), "small": (0, 2, 3)}
    assert choose(scores, 1) == {"large": (2,), "small": (3,)} and choose({}, 0.5) == {}
    for wrong in ({"share": 1.1}, {"share": 0.5, "scope": "all"}, {"share": 0.5, "multiple": 0}):
        with pytest.raises(WellfitError, match="were expected"):
            choose(scores, **wrong)


def test_faster_is_measured():
    """A tenth of the units is far faster, and the other way round it is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4000), nn.ReLU(), nn.Linear(4000, 64))
    inputs = Inputs((torch.randn(32, 64),))

    def cut(count):
        return Cut((("0.weight", 0, tuple(range(count))), ("0.bias", 0, tuple(range(count))),
                    ("2.weight", 1, tuple(range(count)))))  # fmt: skip

    assert is_faster(model, cut(400), cut(3999), inputs, seconds=0.2)
    assert not is_faster(model, cut(3999), cut(400), inputs, seconds=0.2)
    assert model[0].out_features == 4000
