"""Layers of fewer bits: close to the layer, smaller, loaded again from plain tensors; what a backend skips is found."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import types
from importlib import import_module

import pytest
import torch
from changed_layers import Holder, changed, redone, train_one_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from wellfit.errors import WellfitError
from wellfit.slim.changes import Unfit, redo_all
from wellfit.slim.changes.quantised import Quantised, fp8, int4, int8
from wellfit.slim.changes.torchao import Torchao
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.advise import advise
from wellfit.slim.methods.quantise import quantise

quantise_module = import_module("wellfit.slim.methods.quantise")

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
RANGE = (-4.0, 4.0)
CASES = {
    "int8": (lambda: nn.Linear(48, 30), lambda: torch.randn(5, 48), Quantised("layer", "int8"), 0.02),
    "int8 of one sample": (lambda: nn.Linear(48, 30), lambda: torch.randn(48), Quantised("layer", "int8"), 0.02),
    "int8 lstm": (
        lambda: nn.LSTM(20, 16, 2, bidirectional=True),
        lambda: torch.randn(5, 3, 20),
        Quantised("layer", "int8"),
        0.05,
    ),
    "int8 lstm without bias": (
        lambda: nn.LSTM(20, 16, bias=False, batch_first=True),
        lambda: torch.randn(5, 3, 20),
        Quantised("layer", "int8"),
        0.05,
    ),
    "int8 gru": (lambda: nn.GRU(20, 16, 2), lambda: torch.randn(5, 3, 20), Quantised("layer", "int8"), 0.05),
    "int8 gru, one sample": (lambda: nn.GRU(20, 16), lambda: torch.randn(5, 20), Quantised("layer", "int8"), 0.05),
    "static": (
        lambda: nn.Linear(48, 30, bias=False),
        lambda: torch.randn(2, 5, 48),
        Quantised("layer", "static", inputs=RANGE),
        0.03,
    ),
    "static conv": (
        lambda: nn.Conv2d(6, 8, 3, 2, 1, groups=2),
        lambda: torch.randn(2, 6, 9, 8),
        Quantised("layer", "static", inputs=RANGE, outputs=RANGE),
        0.05,
    ),
    "bf16": (lambda: nn.Linear(48, 30), lambda: torch.randn(5, 48), Quantised("layer", "bf16"), 0.02),
    "bf16 conv": (lambda: nn.Conv2d(6, 8, 3), lambda: torch.randn(2, 6, 9, 8), Quantised("layer", "bf16"), 0.02),
    "fp8": (lambda: nn.Linear(48, 30), lambda: torch.randn(5, 48), Quantised("layer", "fp8"), 0.06),
    "int4": (lambda: nn.Linear(64, 30), lambda: torch.randn(5, 64), Quantised("layer", "int4"), 0.15),
    "int4 of an odd width": (
        lambda: nn.Linear(49, 30),
        lambda: torch.randn(2, 5, 49),
        Quantised("layer", "int4", 64),
        0.15,
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def first(out):
    return out[0] if isinstance(out, tuple) else out


def stored(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@cases
def test_it_is_close_smaller_and_loads_again(case):
    make, inputs, change, tolerance = case
    model, x = Holder(make()).eval(), inputs()
    slim = changed(model, change)
    with torch.no_grad():
        expected, found = first(model(x)), first(slim(x))
        assert found.shape == expected.shape and found.dtype == expected.dtype
        error = float((found - expected).norm() / expected.norm())
        assert 0 < error < tolerance
        again = redone(model, change.stored(), slim).eval()
        torch.testing.assert_close(first(again(x)), found, rtol=0, atol=0)
        assert all(type(t) in (torch.Tensor, nn.Parameter) and not t.is_quantized for t in slim.state_dict().values())
    assert stored(slim) < 0.62 * stored(model)


@cases
def test_with_gradients_it_computes_the_same_and_what_is_left_trains(case):
    make, inputs, change, tolerance = case
    model, x = changed(Holder(make()), change).eval(), inputs()
    with torch.no_grad():
        quick = first(model(x))
    slow = first(model(x.requires_grad_()))
    assert float((slow.detach() - quick).norm() / quick.norm()) < tolerance
    slow.sum().backward()
    assert x.grad.abs().sum() > 0
    if any(p.requires_grad for p in model.parameters()):
        train_one_step(model, inputs())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("enforced", [True, False])
def test_packed_sequences_and_given_states(kind, enforced):
    model = Holder(kind(20, 16, 2, bidirectional=True, batch_first=True)).eval()
    slim = changed(model, Quantised("layer", "int8"))
    lengths = torch.tensor([6, 4, 2] if enforced else [4, 6, 2])
    packed = pack_padded_sequence(torch.randn(3, 6, 20), lengths, batch_first=True, enforce_sorted=enforced)
    start = torch.randn(4, 3, 16)
    state = (start, start) if kind is nn.LSTM else start
    with torch.no_grad():
        for given in (None, state):
            ours, theirs = slim.layer(packed, given), model.layer(packed, given)
            assert float((ours[0].data - theirs[0].data).norm() / theirs[0].data.norm()) < 0.05
            last, expected = (first(pair[1]) for pair in (ours, theirs))
            assert float((last - expected).norm() / expected.norm()) < 0.05
    sequence, _ = slim.layer(packed, state)
    assert float((sequence.data.detach() - theirs[0].data).norm() / theirs[0].data.norm()) < 0.05


@quick
@given(st.integers(1, 20), st.integers(1, 90), st.sampled_from([32, 64]), st.integers(0, 2**31))
def test_no_weight_is_off_by_more_than_half_a_level(outputs, inputs, group, seed):
    w = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    values, scale = int8(w)
    assert ((values * scale[:, None] - w).abs() <= scale[:, None] * 0.501 + 1e-6).all()
    levels, scale, shift = int4(w, group)
    back = ((levels.unflatten(1, (-1, group)).float() - 8) * scale[..., None] + shift[..., None]).flatten(1)[:, :inputs]
    assert ((back - w).abs() <= scale.repeat_interleave(group, 1)[:, :inputs] * 0.51 + 1e-5).all()
    bits, scale = fp8(w)
    back = bits.view(torch.float8_e4m3fn).float() * scale[:, None]
    assert ((back - w).abs() <= w.abs() / 16 + scale[:, None] * 2**-9).all()


@pytest.mark.parametrize(
    ("layer", "change", "reason"),
    [
        (lambda: nn.Conv2d(4, 4, 3), Quantised("layer", "int8"), "Conv2d, not Linear or LSTM or GRU"),
        (lambda: nn.Linear(4, 4), Quantised("layer", "int3"), "no kind"),
        (lambda: nn.Linear(4, 4), Quantised("layer", "int4", 33), "groups have"),
        (lambda: nn.LSTM(4, 4, proj_size=2), Quantised("layer", "int8"), "projections"),
        (lambda: nn.Conv2d(4, 4, 3, padding="same"), Quantised("layer", "static"), "padding"),
    ],
)
def test_what_cannot_be_is_refused(layer, change, reason):
    for act in (change.apply, change.redo):
        with pytest.raises(Unfit, match=reason):
            act(Holder(layer()))


def test_ranges_must_have_been_measured():
    for layer in (nn.Linear(4, 4), nn.Conv2d(4, 4, 3)):
        model = Holder(layer)
        for span in (None, (1.0, -1.0), (-torch.inf, 1.0)):
            with pytest.raises(Unfit, match="not measured"):
                Quantised("layer", "static", inputs=span, outputs=span).apply(copy.deepcopy(model))


@pytest.mark.parametrize("make", [lambda: nn.Linear(20, 12), lambda: nn.Conv2d(5, 6, 3, 2, 1)], ids=["linear", "conv"])
def test_training_for_eight_bits_computes_what_they_will(make):
    layer = make()
    x = torch.randn(4, 20) if isinstance(layer, nn.Linear) else torch.randn(4, 5, 8, 8)
    model = Holder(layer)
    rounding = changed(model, Quantised("layer", "qat"))
    y = rounding(x)
    assert 0 < float((y - model(x)).norm().detach() / y.norm().detach()) < 0.03
    assert list(rounding.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(redone(model, Quantised("layer", "qat"), rounding)(x), y, rtol=0, atol=0)
    train_one_step(rounding, x)
    y = rounding(x).detach()
    spans = {"inputs": (float(x.min()), float(x.max())), "outputs": (float(y.min()), float(y.max()))}
    final = Quantised("layer", "static", **spans)
    small = changed(rounding, final).eval()
    with torch.no_grad():
        found = small(x)
    # A convolution rounds its outputs, too.
    assert float((found - y).norm() / y.norm()) < (1e-3 if isinstance(layer, nn.Linear) else 0.02)
    # A fresh model goes through both changes.
    fresh = Holder(copy.deepcopy(layer))
    redo_all(fresh, [Quantised("layer", "qat"), final.stored()])
    fresh.load_state_dict(small.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), found, rtol=0, atol=0)


def test_reading_a_list_of_changes_needs_no_torch():
    code = "import sys; from wellfit.slim.changes import known_changes as k; print(sorted(k()), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    names = ["binary", "cp", "grouped", "quantised", "reduced", "separable", "svd", "torchao", "tucker"]
    assert all(repr(name) in out for name in names) and out.rstrip().endswith("False")


def small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)).eval()


def test_each_layer_gets_what_is_smallest_and_every_refusal_has_a_reason():
    model, inputs = small_model(), Inputs.of(torch.randn(8, 784))
    found = quantise(model, inputs, kinds=("int8", "static", "bf16", "int4"), goal="size", seconds=0.01)
    assert [change.layer for change in found.changes] == ["0", "2", "4"]
    assert {change.kind for change in found.changes} == {"int4"}
    assert len(found.trials) == 12 and all(trial.after < trial.before for trial in found.trials)
    slim = copy.deepcopy(model)
    for change in found.changes:
        change.apply(slim)
    assert stored(slim) < 0.25 * stored(model)
    with torch.no_grad():
        x = inputs.args[0]
        assert float((slim(x) - model(x)).norm() / model(x).norm()) < 0.2
    strict = quantise(model, inputs, kinds=("int4",), goal="size", most_error=1e-4, seconds=0.01)
    assert not strict.changes and all("off" in reason for reason in strict.skipped.values())


def test_what_is_not_faster_is_not_kept_for_latency(monkeypatch):
    model, inputs = small_model(), Inputs.of(torch.randn(8, 784))
    speeds = {"int8": 1.5, "bf16": 1.1}
    real = quantise_module.tried

    def timed(layer, change, given, *, seconds):
        return dataclasses.replace(real(layer, change, given, seconds=0), speedup=speeds[change.kind])

    monkeypatch.setattr(quantise_module, "tried", timed)
    found = quantise(model, inputs, kinds=("bf16", "int8"))
    assert {change.kind for change in found.changes} == {"int8"}
    found = quantise(model, inputs, kinds=("bf16",))
    assert not found.changes and "1.10 times as fast here" in found.skipped["0"]


def test_layers_that_are_not_called_and_settings_that_are_not_there():
    model = nn.ModuleDict({"used": nn.Linear(8, 8), "unused": nn.Linear(8, 8)})
    model.forward = lambda x: model["used"](x)
    found = quantise(model, Inputs.of(torch.randn(2, 8)), kinds=("int8",), goal="size", seconds=0.01)
    assert found.skipped["unused"] == "it is not called in a forward pass"
    for wrong in ({"kinds": ("int7",)}, {"goal": "beauty"}):
        with pytest.raises(WellfitError, match="expected"):
            quantise(model, Inputs.of(torch.randn(2, 8)), **wrong)


class Boxed(torch.Tensor):
    """A tensor class of somebody's: the sum of two plain tensors."""

    def __new__(cls, low, high):
        return torch.Tensor._make_wrapper_subclass(cls, low.shape, dtype=low.dtype)

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __tensor_flatten__(self):
        return ["low", "high"], None

    @classmethod
    def __tensor_unflatten__(cls, parts, context, size, stride):
        return cls(parts["low"], parts["high"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].low, args[0].high)
        plain = [a.low + a.high if isinstance(a, cls) else a for a in args]
        return func(*plain, **(kwargs or {}))


@pytest.fixture
def backend(monkeypatch):
    """A stand-in for torchao that splits weights, leaves wide ones alone, and does not know fp8."""

    def quantize_(model, config):
        weight = model[0].weight
        if config == "fp8":
            raise AssertionError("no such device")
        if weight.shape[1] % 16 == 0:
            model[0].weight = nn.Parameter(Boxed(weight.detach() / 2, weight.detach() / 2), requires_grad=False)

    package, inner = types.ModuleType("torchao"), types.ModuleType("torchao.quantization")
    inner.quantize_, inner.Int8WeightOnlyConfig = quantize_, lambda: "int8"
    inner.Float8WeightOnlyConfig = lambda: "fp8"
    package.quantization = inner
    monkeypatch.setitem(sys.modules, "torchao", package)
    monkeypatch.setitem(sys.modules, "torchao.quantization", inner)


def test_tensors_of_other_classes_are_kept_in_plain_ones(backend):
    model, x = Holder(nn.Linear(32, 8)), torch.randn(3, 32)
    change = Torchao("layer", "torchao-int8-weights")
    slim = changed(model, change)
    assert {type(tensor) for tensor in slim.state_dict().values()} == {torch.Tensor}
    assert set(slim.state_dict()) == {"layer.weight_low", "layer.weight_high", "layer.bias"}
    with torch.no_grad():
        torch.testing.assert_close(slim(x), model(x))
        torch.testing.assert_close(redone(model, change, slim)(x), slim(x), rtol=0, atol=0)


def test_what_a_backend_silently_skips_is_said(backend):
    with pytest.raises(Unfit, match="left it as it was"):
        Torchao("layer", "torchao-int8-weights").apply(Holder(nn.Linear(33, 8)))
    with pytest.raises(Unfit, match="no such device"):
        Torchao("layer", "torchao-fp8-weights").apply(Holder(nn.Linear(32, 8)))
    with pytest.raises(Unfit, match="this version"):
        Torchao("layer", "torchao-int4-weights").apply(Holder(nn.Linear(32, 8)))
    with pytest.raises(Unfit, match="there is no config"):
        Torchao("layer", "torchao-int5").apply(Holder(nn.Linear(32, 8)))


def test_without_torchao_its_kinds_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    found = quantise(
        small_model(), Inputs.of(torch.randn(2, 784)), kinds=("torchao-int8-weights",), goal="size", seconds=0.01
    )
    assert not found.changes and "wellfit[quant]" in found.skipped["0"]


def test_torchao_itself_leaves_a_784_wide_layer_alone_in_int4():
    pytest.importorskip("torchao")
    with pytest.raises(Unfit, match="left it as it was"):
        Torchao("layer", "torchao-int4-weights").apply(Holder(nn.Linear(784, 64)))
    model, x = Holder(nn.Linear(256, 64)), torch.randn(3, 256)
    slim = changed(model, Torchao("layer", "torchao-int8-weights"))
    with torch.no_grad():
        assert float((slim(x) - model(x)).norm() / model(x).norm()) < 0.02


def test_advice_counts_measures_and_calls_faster_only_what_is():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Flatten(), nn.Linear(32 * 64, 40)).eval()
    before = copy.deepcopy(model.state_dict())
    found = advise(model, Inputs.of(torch.randn(4, 16, 8, 8)), seconds=0.02)
    by_what = {(advice.layer, advice.what.split(",")[0].split(" of ")[0]): advice for advice in found.found}
    separable = by_what["0", "depthwise separable"]
    assert separable.parameters == 32 * 16 * 9 + 32 and separable.parameters_then == 16 * 9 + 16 * 32 + 32
    assert separable.multiply_adds == 4 * 64 * 32 * 16 * 9
    assert separable.multiply_adds_then == 4 * 64 * (16 * 9 + 16 * 32)
    half = by_what["2", "half its width"]
    assert half.parameters_then == 1024 * 20 + 20 and half.change is None
    assert {what for _, what in by_what} >= {"int8", "half its width", "Tucker-2", "behind a 1x1 bottleneck"}
    for advice in found.found:
        assert advice.is_faster == (advice.speedup >= 1.2)
        assert ("times as fast" in str(advice)) == advice.is_faster
        if advice.change is not None:
            advice.change.apply(copy.deepcopy(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
