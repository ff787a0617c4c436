"""Layers of one-bit weights: the kernel gives the twin's bits at every instruction set, and both what is defined."""

from __future__ import annotations

import copy
import threading
from importlib import import_module

import pytest
import torch
from changed_layers import Holder, changed, redone, train_one_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from wellfit.slim import native
from wellfit.slim.changes import Unfit
from wellfit.slim.changes.binary import Binary, binarised
from wellfit.slim.layers import binary as layers
from wellfit.slim.methods.binarise import binarise
from wellfit.slim.native.shape import ConvShape, Weights, pack_bytes, pack_words, unpack_bytes

quick = settings(max_examples=40, deadline=None, derandomize=True, database=None)
LEVELS = ["scalar", "avx2", "avx512"]
SPECIAL = [0.0, -0.0, 1e-40, -1e-40, 1e38, -1e38, float("inf"), float("nan")]


@pytest.fixture(autouse=True)
def best_level():
    torch.manual_seed(0)
    yield
    if native.kernel is not None:
        native.kernel.set_level(LEVELS[-1])


def at(level: str) -> native.BinaryKernel:
    if native.kernel is None:
        pytest.skip("the C kernel is not built (python setup.py build_ext --inplace)")
    if native.kernel.set_level(level) != level:
        pytest.skip(f"this processor has no {level}")
    return native.kernel


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Bit for bit, but for what a NaN carries."""
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


@st.composite
def products(draw):
    """Weights and inputs of odd sizes, now and then with special values."""
    rows, inputs, samples = draw(st.integers(1, 40)), draw(st.integers(1, 300)), draw(st.integers(0, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(samples, inputs, generator=generator)
    if samples:
        for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=2)):
            x[0, draw(st.integers(0, inputs - 1))] = value
    signs = torch.rand(rows, inputs, generator=generator) > 0.5
    bias = torch.randn(rows, generator=generator) if draw(st.booleans()) else None
    return x, signs, torch.rand(rows, generator=generator), bias


@pytest.mark.parametrize("level", LEVELS)
@quick
@given(products())
def test_the_kernel_gives_the_bits_of_its_twin(level, product):
    kernel = at(level)
    x, signs, scale, bias = product
    weights, lookup = Weights(signs, scale, bias), Weights(signs, scale, bias, bits=32)
    assert torch.equal(weights.signs(), signs.float() * 2 - 1)
    assert torch.equal(lookup.signs(), weights.signs())
    assert same(kernel.weights_only(x, lookup), native.twin.weights_only(x, lookup))
    for with_beta in (True, False):
        assert same(kernel.both(x, weights, with_beta), native.twin.both(x, weights, with_beta))


@st.composite
def convolutions(draw):
    channels, rows = draw(st.integers(1, 70)), draw(st.integers(1, 20))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    shape = ConvShape(channels, draw(pair), draw(pair), padding, draw(st.tuples(st.integers(1, 2), st.integers(1, 2))))
    size = draw(st.integers(5, 9)), draw(st.integers(5, 9))
    return shape, rows, size, draw(st.booleans()), draw(st.integers(0, 2**31))


@pytest.mark.parametrize("level", LEVELS)
@quick
@given(convolutions())
def test_convolutions_give_the_bits_of_the_twin_and_zeros_take_no_part(level, convolution):
    kernel = at(level)
    shape, rows, size, with_beta, seed = convolution
    torch.manual_seed(seed)
    layer = layers.BinaryConv2d(shape.channels, rows, *shape[1:], bias=seed % 2 == 0, both=True, scaled=with_beta)
    with torch.no_grad():
        layer.bits.random_(0, 256)
        layer.scale.uniform_()
    x = torch.randn(2, shape.channels, *size)
    mean = layer._mean(x) if with_beta else None
    with torch.no_grad():
        found = layer(x)
        expected = native.twin.conv_both(x, shape, layer._weights(), layer._missing(x), mean)
        assert same(found, expected)
        assert same(kernel.conv_both(x, shape, layer._weights(), layer._missing(x), mean), expected)
        signs = torch.where(x >= 0, 1.0, -1.0)
        plain = functional.conv2d(signs, layer._kernels(), None, *shape[2:])
        plain = plain * (1 if mean is None else mean.unsqueeze(1)) * layer.scale[:, None, None]
        torch.testing.assert_close(found, plain if layer.bias is None else plain + layer.bias[:, None, None])


@quick
@given(st.integers(1, 5), st.integers(0, 200), st.integers(0, 2**31))
def test_packing_keeps_every_sign(rows, inputs, seed):
    signs = torch.rand(rows, inputs, generator=torch.Generator().manual_seed(seed)) > 0.5
    assert torch.equal(unpack_bytes(pack_bytes(signs), inputs).bool(), signs)
    words = pack_words(signs)
    for i in range(inputs):
        assert torch.equal(((words[:, i // 64] >> (i % 64)) & 1).bool(), signs[:, i])


def test_threads_share_the_work_and_change_nothing(monkeypatch):
    kernel, kernel_module = at("scalar"), import_module("wellfit.slim.native.kernel")
    x, signs = torch.randn(9, 500), torch.rand(70, 500) > 0.5
    weights, lookup = (Weights(signs, torch.rand(70), None, bits) for bits in (64, 32))
    alone = kernel.weights_only(x, lookup), kernel.both(x, weights, True)
    seen: list[int] = []
    real = kernel_module._pool(2).submit
    monkeypatch.setattr(kernel_module, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(kernel_module._pool(2), "submit", lambda *a: seen.append(1) or real(*a))
    assert torch.equal(kernel.weights_only(x, lookup), alone[0])
    assert torch.equal(kernel.both(x, weights, True), alone[1])
    assert len(seen) == 4  # two others each time
    results: list[torch.Tensor] = []
    callers = [threading.Thread(target=lambda: results.append(kernel.both(x, weights, True))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(torch.equal(result, alone[1]) for result in results)


CASES = {
    "linear": (lambda: nn.Linear(37, 20), lambda: torch.randn(5, 37)),
    "linear, sequences": (lambda: nn.Linear(37, 20, bias=False), lambda: torch.randn(2, 3, 37)),
    "linear, one sample": (lambda: nn.Linear(37, 20), lambda: torch.randn(37)),
    "conv": (lambda: nn.Conv2d(6, 9, 3, padding=1), lambda: torch.randn(2, 6, 8, 7)),
    "conv same": (lambda: nn.Conv2d(6, 9, (3, 5), padding="same", dilation=2), lambda: torch.randn(2, 6, 8, 7)),
    "conv valid": (lambda: nn.Conv2d(6, 9, 2, 2, padding="valid", bias=False), lambda: torch.randn(6, 8, 7)),
    "conv reflect": (lambda: nn.Conv2d(6, 9, 3, 2, 1, padding_mode="reflect"), lambda: torch.randn(2, 6, 8, 7)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
both = pytest.mark.parametrize("both", [False, True], ids=["weights", "both"])


def by_hand(layer: nn.Module, x: torch.Tensor, both: bool, scaled: bool) -> torch.Tensor:
    """The definition, with the layer's own operation."""
    w = layer.weight
    scale = w.abs().flatten(1).mean(1)
    signs = torch.where(w >= 0, 1.0, -1.0)
    other = copy.deepcopy(layer)
    other.bias = None
    with torch.no_grad():
        other.weight.copy_(signs)
    if isinstance(layer, nn.Linear):
        y = other(torch.where(x >= 0, 1.0, -1.0) if both else x)
        y = (y * x.abs().mean(-1, keepdim=True) if scaled else y) * scale
        return y if layer.bias is None else y + layer.bias
    y = other(torch.where(x >= 0, 1.0, -1.0) if both else x)
    if scaled:
        means = copy.deepcopy(layer)
        means.bias = None
        means.weight = nn.Parameter(torch.full_like(w, 1 / w[0].numel()))
        y = y * means(x.abs())
    y = y * scale[:, None, None]
    return y if layer.bias is None else y + layer.bias[:, None, None]


@cases
@both
def test_layers_do_what_is_defined_with_and_without_gradients(case, both):
    make, inputs = case
    model, x = Holder(make()), inputs()
    for scaled in (False, True) if both else (False,):
        change = Binary("layer", both, scaled)
        slim, expected = changed(model, change), by_hand(model.layer, x, both, scaled)
        torch.testing.assert_close(slim(x), expected, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(slim(x), expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(redone(model, change, slim)(x), slim(x), rtol=0, atol=0)


@cases
@both
def test_it_trains_and_the_signs_stay(case, both):
    make, inputs = case
    slim = changed(nn.Sequential(nn.Identity(), nn.Sequential(make())), Binary("1.0", both))
    bits = slim[1][0].bits.clone()
    x = inputs().requires_grad_()
    train_one_step(slim, x)
    assert torch.equal(slim[1][0].bits, bits) and x.grad.abs().sum() > 0


def test_new_weights_are_seen():
    """What was packed for the kernel follows the state: loaded, moved, changed in place."""
    slim, other = (changed(Holder(nn.Linear(37, 20)), Binary("layer")) for _ in range(2))
    x = torch.randn(2, 37)
    with torch.no_grad():
        slim(x)
        slim.load_state_dict(other.state_dict())
        assert torch.equal(slim(x), other(x))
        slim.layer.scale.mul_(2)
        slim.layer.bias.zero_(), other.layer.bias.zero_()
        torch.testing.assert_close(slim(x), 2 * other(x))
        assert torch.equal(copy.deepcopy(slim)(x), slim(x))
        torch.testing.assert_close(slim.double()(x.double()).float(), 2 * other(x), rtol=1e-4, atol=1e-4)


def test_it_can_be_exported_and_compiled_without_the_kernel():
    slim = changed(nn.Sequential(nn.Linear(37, 20), nn.ReLU(), nn.Linear(20, 9)), Binary("0", True)).eval()
    x = torch.randn(4, 37)
    with torch.no_grad():
        program = torch.export.export(slim, (x,))
        torch.testing.assert_close(program.module()(x), slim(x), rtol=1e-4, atol=1e-4)


def test_binarised_weights_lose_nothing():
    w = torch.where(torch.randn(30, 70) >= 0, 1.0, -1.0) * torch.rand(30, 1)
    signs, scale, error = binarised(w)
    assert error == 0 and torch.equal((signs.float() * 2 - 1) * scale[:, None], w)
    w = torch.randn(30, 70)
    signs, scale, error = binarised(w)
    assert error == pytest.approx(float((w - (signs.float() * 2 - 1) * scale[:, None]).norm() / w.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("layer", "both", "reason"),
    [
        (lambda: nn.Conv2d(8, 8, 3, groups=2), True, "2 groups"),
        (lambda: nn.Conv2d(8, 8, 2, padding="same"), False, "one side"),
        (lambda: nn.Conv1d(8, 8, 3), False, "Conv1d"),
        (lambda: nn.LSTM(8, 8), False, "LSTM"),
    ],
)
def test_what_cannot_be_is_refused(layer, both, reason):
    for act in (Binary("layer", both).apply, Binary("layer", both).redo):
        with pytest.raises(Unfit, match=reason):
            act(Holder(layer()))


def test_pruned_weights_are_refused():
    model = Holder(nn.Linear(20, 20))
    with torch.no_grad():
        model.layer.weight[:, :5] = 0
    with pytest.raises(Unfit, match="25% of its weights are 0"):
        Binary("layer").apply(model)


def test_images_of_other_sizes_follow():
    model = Holder(nn.Conv2d(6, 9, 3, padding=1))
    slim = changed(model, Binary("layer", both=True))
    with torch.no_grad():
        for size in (5, 8, 5):
            x = torch.randn(2, 6, size, size + 1)
            torch.testing.assert_close(slim(x), by_hand(model.layer, x, True, False), rtol=1e-4, atol=1e-4)
    assert len(slim.layer._ready.get("missing", {})) <= 1


def test_groups_with_one_bit_weights():
    model = Holder(nn.Conv2d(8, 8, 3, groups=4))
    x = torch.randn(1, 8, 5, 5)
    slim = changed(model, Binary("layer"))
    torch.testing.assert_close(slim(x), by_hand(model.layer, x, False, False), rtol=1e-4, atol=1e-4)


def test_ends_are_left_alone_and_untrained_weights_are_said_to_be():
    model = nn.Sequential(nn.Linear(20, 20), nn.Conv1d(4, 4, 3), nn.Linear(20, 20), nn.Linear(20, 20))
    found = binarise(model, both=True)
    assert found.changes == (Binary("2", True),) and found.needs == "a run under binarise"
    assert found.skipped["0"] == found.skipped["3"] == "it is the first or the last layer"
    assert "Conv1d" in found.skipped["1"]
    assert len(binarise(model, ends=True).changes) == 3
    with torch.no_grad():
        model[2].weight.copy_(torch.where(model[2].weight >= 0, 0.3, -0.3))
    assert binarise(model).needs == ""
