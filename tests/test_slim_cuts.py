"""Cuts of `wellfit slim`: what is cut gives the outputs of the masked model, and what cannot be cut says why."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import slim_models
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wellfit.slim.changes import Unfit, as_json, from_json, redo_all
from wellfit.slim.changes._tree import tensor_of
from wellfit.slim.changes.cut import Cut
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.coupled import coupling
from wellfit.slim.methods.structured import checked_cut, checked_cuts, prune

GROUPS = {
    "mlp": {"fc1": 16, "fc2": 10},
    "lenet": {"conv1": 6, "conv2": 8, "fc1": 20},
    "lenet-sized": {"conv1": 6, "conv2": 8, "fc1": 20},
    "vgg": {"0": 8, "3": 8, "7": 12, "10": 12},
    "resnet-a": {
        "conv1": 8, **{f"layers.{n}.conv1": width for n, width in enumerate((8, 8, 8, 16, 16, 16, 32, 32, 32))},
    },
    "resnet-b": {
        "conv1": 8, "layers.3.conv2": 16, "layers.6.conv2": 32,
        **{f"layers.{n}.conv1": width for n, width in enumerate((8, 8, 8, 16, 16, 16, 32, 32, 32))},
    },
    "dense": {"stem": 8, "convs.0": 4, "convs.1": 4, "convs.2": 4},
    "separable": {"0": 8, "4": 16, "10": 16},
    "unet": {"down1": 8, "down2": 12, "up": 6, "join": 8},
    "lstm": {"embed": 6, "rnn": 8},
    "gru": {"embed": 6, "rnn": 8},
    "rnn": {"embed": 6, "rnn": 8},
    "lstm-state": {"lstm": 8},
    "cell-loop": {"x2h": 8},
    **{
        name: {
            "embed": 16,
            **{f"encoder.layers.{n}.{part}": c for n in (0, 1) for part, c in (("self_attn", 4), ("linear1", 24))},
        }
        for name in ("encoder", "encoder-time-first")
    },
    **{
        f"gpt-{style}": {
            "tokens": 16,
            **{f"blocks.{n}.{part}": c for n in (0, 1) for part, c in (("attention.qkv", 4), ("mlp.0", 32))},
        }
        for style in ("packed", "chunk", "nano")
    },
    "grouped-query": {"q": 2, "gate": 20},
    "two-outputs": {"left": 8},
    "shared": {"first": 8},
    "grouped": {"0": 4},
    "squeeze-excite": {"conv": 12, "down": 4},
    "autoencoder": {"0": 8, "3": 4},
    "gated": {"start": 8, "wide": 6},
    "hand-norm": {"start": 12},
    "conv3d": {"a": 6, "b": 4},
    "factors": {"users": 8},
    "vision": {"patches": 16, "qkv": 4},
    "packed": {"rnn": 8, "rnn 2": 5},
    "cells": {"one": 8, "two": 6},
    "crossed": {"embed": 12, "attention": 3, "attention.out_proj": 12},
}  # fmt: skip
NORMED = {"embed", "tokens", "start", "patches"}


def results(model, inputs):
    with torch.no_grad():
        return list(tensors_in(inputs.copied().call(model.eval())))


def close(one, other, within=2e-5):
    assert [x.shape for x in one] == [x.shape for x in other]
    for x, y in zip(one, other):
        torch.testing.assert_close(x, y, rtol=within, atol=within * max(float(x.abs().max()), 1e-3))


def masked_by(model, cut):
    """The model with all zeroed that a cut leaves out: written apart from the code that is tested."""
    masked = copy.deepcopy(model)
    for name, axis, kept in cut.slices:
        tensor = tensor_of(masked, name)
        gone = [index for index in range(tensor.shape[axis]) if index not in kept]
        tensor.detach().movedim(axis, 0)[gone] = 0
    return masked


@pytest.mark.parametrize("name", slim_models.MODELS)
def test_half_of_all_channels(name):
    """Every group is found and cut, the cut model is ordinary, and a fresh instance takes its weights."""
    model, example = slim_models.made(name)
    inputs = Inputs.of(example)
    found = coupling(model, inputs)
    assert {group.name: group.channels for group in found.groups} == GROUPS[name]
    before = copy.deepcopy(model.state_dict())
    cuts = checked_cuts(model, inputs, found, {group.name: range(0, group.channels, 2) for group in found.groups})
    assert not cuts.skipped and set(cuts.kept) == set(GROUPS[name])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    normed = {group.name for group in found.groups if group.normed}
    assert normed <= NORMED | {"attention", "0"}
    plain = checked_cuts(model, inputs, found, {key: kept for key, kept in cuts.kept.items() if key not in normed})
    if plain.cut is not None and not plain.skipped:
        smaller = copy.deepcopy(model)
        plain.cut.apply(smaller)
        close(results(masked_by(model, plain.cut), inputs), results(smaller, inputs))

    smaller = copy.deepcopy(model)
    cuts.cut.apply(smaller)
    assert sum(p.numel() for p in smaller.parameters()) < 0.75 * sum(p.numel() for p in model.parameters())
    fresh = slim_models.MODELS[name][0]()
    redo_all(fresh, from_json(json.loads(json.dumps(as_json([cuts.cut.stored()])))))
    fresh.load_state_dict(smaller.state_dict())
    close(results(smaller, inputs), results(fresh, inputs), within=1e-6)
    assert str(fresh) == str(smaller)


@pytest.mark.parametrize("name", ["vgg", "resnet-a", "lstm", "encoder", "gpt-packed", "shared", "crossed"])
def test_a_cut_model_trains(name):
    """All parameters of a cut model get gradients, and a step of an optimizer changes its outputs."""
    model, example = slim_models.made(name)
    inputs = Inputs.of(example)
    prune(model, inputs, 0.5, scope="layer", width=True).cut.apply(model)
    before = results(model, inputs)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)
    loss = sum(out.square().sum() for out in tensors_in(inputs.call(model)) if out.requires_grad)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape, key
    optimizer.step()
    assert not torch.equal(before[0], results(model, inputs)[0])


def test_shared_weights_stay_shared():
    model, example = slim_models.made("gpt-packed")
    cut = prune(model, Inputs.of(example), 0.5, scope="layer", width=True).cut
    cut.apply(model)
    assert model.head.weight is model.tokens.weight and model.head.weight.shape == (20, 8)
    assert model.head.in_features == model.tokens.embedding_dim == 8
    model, example = slim_models.made("shared")
    prune(model, Inputs.of(example), 0.5).cut.apply(model)
    assert model.again is model.body and model.third.weight is model.body.weight and model.third.in_features == 4


def test_a_norm_goes_over_the_kept_channels():
    """Width under a layer norm: the norm's statistics are those of the channels that are left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.LayerNorm(12), nn.Linear(12, 3))
    nn.init.normal_(model[1].weight), nn.init.normal_(model[1].bias)
    x, kept = torch.randn(4, 5), [0, 3, 4, 7, 11]
    inner = F.layer_norm(model[0](x)[:, kept], (5,), model[1].weight[kept], model[1].bias[kept])
    expected = inner @ model[2].weight[:, kept].T + model[2].bias
    found = coupling(model, Inputs((x,)))
    assert found.group("0").normed
    checked_cut(model, Inputs((x,)), found, {"0": kept}).apply(model)
    torch.testing.assert_close(model(x), expected)
    assert model[1].normalized_shape == (5,)


def test_prune_leaves_width_alone_unless_asked():
    model, example = slim_models.made("encoder")
    cuts = prune(model, Inputs.of(example), 0.5, scope="layer")
    assert "embed" not in cuts.kept and "norm" in cuts.skipped["embed"]
    assert cuts.skipped["head"] == "it is an output of the model"


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(5, 2)

    def forward(self, x):
        return self.end(torch.fft.rfft(self.start(x)).abs())


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 2)
        self.turn = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))

    def forward(self, x):
        return self.end((self.start(x).to(torch.complex64) @ self.turn).real)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(6, 2)
        self.table = nn.Parameter(torch.randn(6, 8).relu().to_sparse())

    def forward(self, x):
        return self.end(torch.sparse.mm(self.table, self.start(x).T).T)


class Constant(nn.Module):
    """Meets a tensor that no state_dict holds."""

    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 2)
        self.offset = torch.randn(8)

    def forward(self, x):
        return self.end(self.start(x) + self.offset)


class Sliced(nn.Module):
    """Uses the first three units for something else."""

    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.start(x)
        return self.end(x), x[:, :3].softmax(-1)


class Experts(nn.Module):
    """Each sample is sent to one of two layers."""

    def __init__(self):
        super().__init__()
        self.start, self.end = nn.Linear(4, 8), nn.Linear(8, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 8)) for _ in range(2))

    def forward(self, x):
        y = self.start(x)
        out = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            if (sent := (x[:, 0] > 0) == bool(number)).any():
                out[sent] = expert(y[sent])
        return self.end(y + out)


def test_layers_that_the_example_does_not_use():
    """They might take the channels too, so these stay; with an example that uses all of them they may go."""
    torch.manual_seed(0)
    model, example = Experts(), torch.randn(6, 4)
    example[:, 0] = 1
    found = coupling(model, Inputs((example,)))
    assert not found.groups and "experts.0.0, which is not used" in found.refused["start"]
    example[0, 0] = -1
    inputs = Inputs((example,))
    found = coupling(model, inputs)
    assert {group.name: group.channels for group in found.groups} == {"start": 8, "experts.0.0": 10, "experts.1.0": 10}
    cuts = checked_cuts(model, inputs, found, {group.name: (1, 2, 5) for group in found.groups})
    assert not cuts.skipped
    smaller = copy.deepcopy(model)
    cuts.cut.apply(smaller)
    close(results(masked_by(model, cuts.cut), inputs), results(smaller, inputs))


@pytest.mark.parametrize(
    ("model", "example", "layer", "reason"),
    [
        (Fourier(), torch.randn(2, 4), "start", "goes through _fft_r2c, which is not understood"),
        (Complex(), torch.randn(2, 4), "turn", "it is complex"),
        (Sparse(), torch.randn(2, 4), "table", "it is sparse"),
        (Constant(), torch.randn(2, 4), "start", "no part of the state_dict"),
        (nn.Sequential(nn.Linear(4, 8), nn.Softmax(-1), nn.Linear(8, 2)), torch.randn(2, 4), "0", "_softmax goes over"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(2, 4), "1", "it is an output of the model"),
        (nn.ModuleDict({"a": nn.Linear(2, 2)}), torch.randn(2, 2), "a", "the model fails with the example inputs"),
        (nn.LazyLinear(3), torch.randn(2, 2), "", "call the model once first"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(model, example, layer, reason):
    with pytest.raises(Unfit, match=reason):
        coupling(model, Inputs.of(example)).group(layer)


def test_what_only_the_check_finds():
    """Sizes in the code of a model are not seen by following it: the cut model fails, and the model stays."""
    torch.manual_seed(0)
    for model, example, name, reason in (
        (slim_models.LeNetLiteral(), torch.randn(2, 1, 28, 28), "conv2", "shape '\\[-1, 128\\]' is invalid"),
        (slim_models.Shuffled(), torch.randn(2, 3, 8, 8), "start", "invalid for input of size|differ"),
        (Sliced(), torch.randn(2, 4), "start", "differ"),
    ):
        inputs = Inputs.of(example)
        found = coupling(model, inputs)
        group = found.group(name)
        cuts = checked_cuts(model, inputs, found, {name: range(1, group.channels)})
        assert cuts.cut is None or name == "start"
        if cuts.cut is None:
            with pytest.raises(Unfit, match=reason):
                checked_cut(model, inputs, found, {name: range(1, group.channels)})


def test_heads_that_follow_from_the_width_cannot_go_alone():
    model, example = slim_models.made("gpt-nano")
    inputs = Inputs.of(example)
    with pytest.raises(Unfit, match="invalid for input of size"):
        checked_cut(model, inputs, coupling(model, inputs), {"blocks.0.attention.qkv": [0, 2]})


@pytest.mark.parametrize("weights", ["as they are", "zero"])
def test_a_wrong_group_is_caught(weights):
    """Members mixed up in one place, as a mistake in following would do: found out though all weights are zero."""
    model, example = slim_models.made("lenet")
    if weights == "zero":
        for parameter in model.parameters():
            parameter.data.zero_()
    inputs = Inputs.of(example)
    found = coupling(model, inputs)
    group = found.group("conv2")
    checked_cut(model, inputs, found, {"conv2": [0, 1, 2]})
    wrong = list(group.members)
    place = next(n for n, place in enumerate(group.places) if place.tensor == "fc1.weight")
    wrong[place] = wrong[place].reshape(-1).reshape(wrong[place].shape, order="F")
    object.__setattr__(group, "members", tuple(wrong))
    with pytest.raises(Unfit, match="differ from those of the masked model"):
        checked_cut(model, inputs, found, {"conv2": [0, 1, 2]})


@pytest.mark.parametrize("kept", [[], [8], [-1, 2]])
def test_channels_that_are_not_there(kept):
    model, example = slim_models.made("shared")
    inputs = Inputs.of(example)
    with pytest.raises(Unfit, match="channels 0 to 7, and at least one must be kept"):
        checked_cut(model, inputs, coupling(model, inputs), {"first": kept})


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_stack_of_convolutions(data):
    """Convolutions, norms, groups, pools in any order, then a linear layer; any channels kept."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layers, width = [], 2
    for _ in range(data.draw(st.integers(1, 3))):
        out = data.draw(st.sampled_from([2, 4, 6]))
        groups = data.draw(st.sampled_from([1, 2]))
        layers.append(nn.Conv2d(width, out, 3, padding=1, groups=groups, bias=data.draw(st.booleans())))
        layers += data.draw(
            st.sampled_from([[], [nn.BatchNorm2d(out)], [nn.GroupNorm(2, out)], [nn.Conv2d(out, out, 1, groups=out)]])
        )
        layers.append(data.draw(st.sampled_from([nn.ReLU(), nn.Sigmoid(), nn.PReLU(), nn.Identity()])))
        width = out
    model = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(width * 4, 3)).eval()
    inputs = Inputs((torch.randn(2, 2, 4, 4),))
    found = coupling(model, inputs)
    subsets = {
        group.name: data.draw(st.sets(st.integers(0, group.channels - 1), min_size=1), label=group.name)
        for group in found.groups
    }
    cuts = checked_cuts(model, inputs, found, subsets)
    assert not cuts.skipped
    if cuts.cut is not None:
        smaller = copy.deepcopy(model)
        cuts.cut.apply(smaller)
        close(results(masked_by(model, cuts.cut), inputs), results(smaller, inputs))


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ((("fc9.weight", 0, 2),), "has no tensor 'fc9.weight'|has no layer 'fc9'"),
        ((("fc1.weight", 2, 2),), "none of them is number 2"),
        ((("fc1.weight", 0, 17),), "17 cannot be kept"),
        ((("fc1.weight", 0, (3, 2)),), "no rising numbers"),
        ((("fc1.weight", 0, (0, 16)),), "no rising numbers below 16"),
        ((("fc1.weight", 0, ()),), "0 cannot be kept"),
        ((("fc1.weight", 0, 4), ("fc1.weight", 0, 2)), "twice"),
    ],
)
def test_a_cut_that_does_not_fit(slices, reason):
    """As where the class has changed since, or someone wrote the file by hand: nothing is changed."""
    model = slim_models.Mlp()
    before = str(model)
    with pytest.raises(Unfit, match=reason):
        Cut(slices).redo(model)
    assert str(model) == before and model.fc1.weight.shape == (16, 12)
    with pytest.raises(Unfit, match="has no size"):
        Cut((("fc1.weight", 0, 4),), (("fc1", "forward", 3),)).redo(model)
    assert model.fc1.weight.shape == (16, 12)
    with pytest.raises(Unfit, match="only how many"):
        Cut((("fc1.weight", 0, 4),)).apply(model)


def test_inner_cuts_take_the_width_of_heads():
    """The other way to see heads x width: the same places of all heads, checked as ever."""
    model, example = slim_models.made("crossed")
    inputs = Inputs.of(example)
    found = coupling(model, inputs, inner=True)
    assert found.group("attention").channels == found.group("attention 2").channels == 4
    with pytest.raises(Unfit, match="the cut model fails"):  # values must be as wide as queries and keys
        checked_cut(model, inputs, found, {"attention": [0, 1, 3]})
    cut = checked_cut(model, inputs, found, {"attention": [0, 1, 3], "attention 2": [1, 2, 3]})
    smaller = copy.deepcopy(model)
    cut.apply(smaller)
    assert (smaller.attention.num_heads, smaller.attention.head_dim) == (3, 3)
    close(results(masked_by(model, cut), inputs), results(smaller, inputs))


def test_random_numbers_and_modes_stay():
    model, example = slim_models.made("vgg")
    model.train()
    state = torch.get_rng_state()
    prune(model, Inputs.of(example), 0.5)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(p.grad is None for p in model.parameters())


def test_types_of_numbers():
    for dtype in (torch.float64, torch.bfloat16):
        model, example = slim_models.made("vgg")
        cuts = prune(model.to(dtype), Inputs.of(example.to(dtype)), 0.5, scope="layer")
        assert set(cuts.kept) == set(GROUPS["vgg"])
        cuts.cut.apply(model)
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_kept_indices_are_plain_numbers():
    model, example = slim_models.made("mlp")
    cut = prune(model, Inputs.of(example), np.float64(0.5)).cut
    assert all(type(index) is int for _, _, kept in cut.slices for index in kept)
