"""Batch norms folded, layers dropped, heads taken out, and lists of changes as JSON."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys

import pytest
import slim_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Unfit, as_json, from_json, known_changes, redo_all
from wellfit.slim.changes._attention import SlimAttention
from wellfit.slim.changes._stand_ins import Nothing, Through
from wellfit.slim.changes.cut import Cut
from wellfit.slim.changes.drop import Drop
from wellfit.slim.changes.fold import Fold
from wellfit.slim.changes.heads import Heads
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.fold import folds
from wellfit.slim.methods.heads import heads
from wellfit.slim.methods.layers import droppable


def results(model, inputs):
    with torch.no_grad():
        return list(tensors_in(inputs.copied().call(model.eval())))


def same(one, other, **kinds):
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, **kinds)


@pytest.mark.parametrize(("name", "count"), [("vgg", 4), ("resnet-a", 19), ("resnet-b", 21), ("separable", 4)])
def test_all_norms_fold(name, count):
    """No batch norm is left, the outputs are the same, and a fresh instance takes the weights."""
    model, example = slim_models.made(name)
    inputs = Inputs.of(example)
    expected, before = results(model, inputs), str(model)
    found = folds(model, inputs)
    assert len(found.changes) == count and not found.skipped and str(model) == before
    for change in found.changes:
        change.apply(model)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    same(expected, results(model, inputs), rtol=1e-4, atol=1e-5)
    fresh = slim_models.MODELS[name][0]()
    redo_all(fresh, from_json(json.loads(json.dumps(as_json(found.changes)))))
    fresh.load_state_dict(model.state_dict())
    same(results(model, inputs), results(fresh, inputs))
    sum(out.sum() for out in inputs.call(model.train())).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_layer_folds(data):
    """Linear layers and convolutions of all kinds, in double precision: the same to rounding."""
    torch.manual_seed(data.draw(st.integers(0, 999)))
    kind = data.draw(
        st.sampled_from([nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d])
    )
    bias, affine = data.draw(st.booleans()), data.draw(st.booleans())
    if kind is nn.Linear:
        layer, x = nn.Linear(4, 6, bias=bias), torch.randn(3, 4)
    else:
        layer = kind(4, 6, 2, groups=data.draw(st.sampled_from([1, 2])), bias=bias)
        x = torch.randn(3, 4, *[4] * int(kind.__name__[-2]))
    rank = 1 if kind is nn.Linear else int(kind.__name__[-2])
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1](6, affine=affine, eps=1e-3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.01, 4)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    model = nn.Sequential(layer, norm).double()
    inputs = Inputs((x.double(),))
    expected = results(model, inputs)
    (change,) = folds(model, inputs).changes
    change.apply(model)
    same(expected, results(model, inputs), rtol=1e-10, atol=1e-10)
    assert isinstance(model[1], nn.Identity) and model[0].bias.dtype == torch.float64


class Branching(nn.Module):
    """The layer before the norm has another use."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Half(nn.Module):
    """One norm can be folded, the other one cannot."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 4), nn.BatchNorm1d(4), Branching()

    def forward(self, x):
        return self.second(self.norm(self.first(x)).reshape(-1, 1, 2, 2).expand(-1, 3, -1, -1).repeat(1, 1, 3, 3))


def test_one_that_cannot_be_folded_does_not_keep_the_others():
    found = folds(Half(), Inputs((torch.randn(3, 4),)))
    assert found.changes == (Fold("first", "norm"),) and "elsewhere" in found.skipped["second.norm"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.one, self.two = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.unused = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.two(self.layer(torch.relu(self.one(self.layer(x)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.head.weight = self.layer.weight

    def forward(self, x):
        return self.head(self.norm(self.layer(x)))


def test_norms_that_stay():
    x = torch.randn(5, 4)
    for model, example, reasons in (
        (Branching(), torch.randn(2, 3, 6, 6), {"norm": "is used elsewhere too"}),
        (Twice(), x, {"one": "layer, before it, is called 2 times", "two": "called 2 times", "unused": "not used"}),
        (Tied(), x, {"norm": "shared with another layer"}),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), x, {"0": "does not come straight from"}),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)), x, {"2": "does not come straight from"}),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), x, {"1": "no running"}),
    ):  # fmt: skip
        before = copy.deepcopy(model.state_dict())
        found = folds(model, Inputs.of(example))
        assert not found.changes and found.skipped.keys() == reasons.keys()
        assert all(reason in found.skipped[name] for name, reason in reasons.items()), found.skipped
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_fold_that_does_not_fit():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(4))
    for change, reason in (
        (Fold("0", "1"), "0 has 3 outputs, 1 is for 4"),
        (Fold("1", "1"), "not a linear layer"),
        (Fold("0", "0"), "not a batch norm"),
        (Fold("0", "7"), "no layer '7'"),
    ):
        with pytest.raises(Unfit, match=reason):
            change.redo(model)


class Residual(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        self.size = size

    def forward(self, x):
        return x + self.size * self.body(x)


def test_the_block_that_matters_least_comes_first():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), Residual(1.0), Residual(0.0), Residual(0.1), nn.Linear(6, 2))
    inputs = Inputs((torch.randn(64, 4),))
    found = droppable(model, inputs)
    moved = {layer.change.layer: layer for layer in found.layers}
    assert set(moved) == {"1", "1.body", "2", "2.body", "3", "3.body"}
    assert moved["2"].moved == 0 and moved["3"].moved < 0.2 * moved["1"].moved
    assert [layer.moved for layer in found.layers] == sorted(layer.moved for layer in found.layers)
    assert moved["1"].change == Drop("1") and moved["1.body"].change == Drop("1.body", branch=True)
    assert math.isclose(moved["1"].moved, moved["1.body"].moved, rel_tol=1e-4)
    assert moved["1"].parameters == 6 * 8 + 8 + 8 * 6 + 6
    narrow, wide = (
        "it gets (64, 8) float32 and gives (64, 6) float32",
        "it gets (64, 6) float32 and gives (64, 8) float32",
    )
    assert found.skipped == {
        "0": "it gets (64, 4) float32 and gives (64, 6) float32",
        "4": "it gets (64, 6) float32 and gives (64, 2) float32",
        **{f"{block}.body.{place}": why for block in (1, 2, 3) for place, why in ((0, wide), (2, narrow))},
    }

    expected = results(model, inputs)
    for change in (Drop("2"), Drop("1.body", branch=True)):
        change.apply(model)
    assert isinstance(model[2], Through) and isinstance(model[1].body, Nothing)
    fresh = nn.Sequential(nn.Linear(4, 6), Residual(1.0), Residual(0.0), Residual(0.1), nn.Linear(6, 2))
    redo_all(fresh, [Drop("2"), Drop("1.body", branch=True)])
    fresh.load_state_dict(model.state_dict())
    same(results(model, inputs), results(fresh, inputs))
    assert not torch.allclose(expected[0], results(model, inputs)[0])


def test_encoder_layers_drop_with_all_that_they_are_called_with():
    """The first layer of torch's encoder stays: the encoder asks for its attention."""
    model, example = slim_models.made("encoder")
    inputs = Inputs.of(example)
    found = droppable(model, inputs)
    assert "no attribute 'self_attn'" in found.skipped["encoder.layers.0"]
    dropped = {layer.change.layer: layer for layer in found.layers}["encoder.layers.1"]
    assert dropped.change == Drop("encoder.layers.1") and 0 < dropped.moved < math.inf
    dropped.change.apply(model)
    with torch.no_grad():
        first = model.encoder.layers[0].eval()(model.embed(example) + model.place)
        same([model.head(first.mean(1))], results(model, inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises(Unfit, match="whole model"):
        Drop("").apply(model)
    with pytest.raises(Unfit, match=r"no layer 'encoder.layers.7'"):
        Drop("encoder.layers.7").apply(model)


@pytest.mark.parametrize("name", ["encoder", "encoder-time-first", "crossed"])
def test_the_head_that_does_nothing_goes(name):
    """One head of each layer is made useless: it is the one that is cut, and the outputs stay."""
    model, example = slim_models.made(name)
    inputs = Inputs.of(example)
    layers = {key: module for key, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)}
    for module in layers.values():
        module.out_proj.weight.data[:, module.head_dim : 2 * module.head_dim] = 0
    before = {key: module.num_heads for key, module in layers.items()}
    expected = results(model, inputs)
    found = heads(model, inputs, 1 / 3, by="magnitude" if name == "crossed" else "output", scope="layer")
    assert not found.skipped
    assert {change.layer: change.kept for change in found.changes} == {
        key: tuple(head for head in range(count) if head != 1) for key, count in before.items()
    }
    for change in found.changes:
        change.apply(model)
    if name != "crossed":  # its other output is the mean of the heads' weights
        same(expected, results(model, inputs), rtol=1e-4, atol=1e-5)
    fresh = slim_models.MODELS[name][0]()
    redo_all(fresh, from_json(json.loads(json.dumps(as_json(found.changes)))))
    fresh.load_state_dict(model.state_dict())
    same(results(model, inputs), results(fresh, inputs))
    sum(out.sum() for out in tensors_in(inputs.call(model.train()))).backward()


def test_heads_that_do_not_fit():
    model, _ = slim_models.made("crossed")
    for change, reason in (
        (Heads("attention", 4, (0,)), "has 3 heads"),
        (Heads("attention", 3, ()), "cannot be kept"),
        (Heads("attention", 3, (1, 3)), "cannot be kept"),
        (Heads("attention", 3, (1, 0)), "no rising numbers"),
        (Heads("embed", 3, (1,)), "not attention"),
    ):
        with pytest.raises(Unfit, match=reason):
            change.apply(model)
    with pytest.raises(Unfit, match="add_bias_kv"):
        Heads("0", 2, (1,)).apply(nn.Sequential(nn.MultiheadAttention(4, 2, add_bias_kv=True)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_our_attention_is_torchs(data):
    """Before anything is cut it gives what `nn.MultiheadAttention` gives, however it is called."""
    torch.manual_seed(data.draw(st.integers(0, 999)))
    first, bias, crossed = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.booleans())
    batched, boolean, each = data.draw(st.booleans()), data.draw(st.booleans()), data.draw(st.booleans())
    extra = {"kdim": 3, "vdim": 5} if crossed else {}
    theirs = nn.MultiheadAttention(8, 2, bias=bias, batch_first=first, **extra).eval()
    if bias:
        nn.init.normal_(theirs.in_proj_bias)
    shape = (lambda t, w: (3, t, w) if first else (t, 3, w)) if batched else (lambda t, w: (t, w))
    q, k, v = (
        torch.randn(shape(4, 8)),
        torch.randn(shape(6, 3 if crossed else 8)),
        torch.randn(shape(6, 5 if crossed else 8)),
    )
    mask = padding = None
    if data.draw(st.booleans()):
        count = (3 if batched else 1) * 2
        mask = torch.rand(count, 4, 6) < 0.3 if each else torch.rand(4, 6) < 0.3
        mask[..., 0] = False
        mask = mask if boolean else torch.where(mask, -1.5, 0.5)
    if data.draw(st.booleans()):
        padding = torch.rand(3, 6) < 0.3 if batched else torch.rand(6) < 0.3
        padding[..., 0] = False
        if mask is not None and not boolean:
            padding = torch.where(padding, -math.inf, 0.0)
    options = {
        "need_weights": data.draw(st.booleans()),
        "average_attn_weights": data.draw(st.booleans()),
        "attn_mask": mask,
        "key_padding_mask": padding,
    }
    ours = SlimAttention(copy.deepcopy(theirs)).eval()
    with torch.no_grad():
        expected, found = theirs(q, k, v, **options), ours(q, k, v, **options)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert (found[1] is None) == (expected[1] is None)
    if expected[1] is not None:
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_reading_changes_needs_no_torch():
    code = """import sys
from wellfit.slim.changes import from_json
print(from_json([{"change": "drop", "layer": "a"}]), "torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[Drop(layer='a',", "branch=False)]", "False"]


def test_changes_as_json():
    changes = [
        Cut((("a.weight", 0, (1, 2)), ("a.bias", 0, 2)), (("", "sizes", (2, 3)), ("a", "width", 4))),
        Heads("b", 4, (0, 3)),
        Drop("c", branch=True),
        Drop("d"),
        Fold("e", "f"),
    ]
    written = json.loads(json.dumps(as_json(changes)))
    assert from_json(written) == changes
    assert written[3] == {"change": "drop", "layer": "d"}
    assert changes[0].stored().slices == (("a.weight", 0, 2), ("a.bias", 0, 2))
    assert {"cut", "heads", "drop", "fold"} <= set(known_changes())


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ("cut", "a list of changes was expected, not cut"),
        ({"change": "cut"}, "a list of changes was expected"),
        (["cut"], "change 0: a dictionary"),
        ([{"change": 3}], "change 0: a dictionary"),
        ([{"change": "drop", "layer": "a"}, {"change": "dorp"}], 'change 1: there is no change "dorp" .did'),
        ([{"change": "drop", "layer": 3}], "change 0, drop.layer: str was expected, not 3"),
        ([{"change": "drop", "layer": "a", "branch": 1}], "drop.branch: bool was expected, not 1"),
        ([{"change": "drop", "layer": "a", "apply": 1}], 'there is no field "apply"'),
        ([{"change": "drop"}], 'the field "layer" is missing'),
        ([{"change": "heads", "layer": "a", "heads": True, "kept": []}], "int was expected, not True"),
        ([{"change": "heads", "layer": "a", "heads": 4, "kept": [0, "1"]}], "int was expected, not 1"),
        ([{"change": "cut", "slices": [["a", 0]]}], "was expected"),
        ([{"change": "cut", "slices": [["a", 0, 1.5]]}], "was expected"),
    ],
)  # fmt: skip
def test_changes_that_someone_else_wrote(entries, reason):
    with pytest.raises(WellfitError, match=reason):
        from_json(entries)
