"""Layers of fewer bits: close to the layer, smaller, loaded again from plain tensors; what a backend skips is found."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_slim_factor import Sorted, changed, redone, train_one_step
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from wellfit.slim.changes import Unfit
from wellfit.slim.changes.quantised import Quantised, fp8, int4, int8

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
    model, x = Sorted(make()).eval(), inputs()
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
    model, x = changed(Sorted(make()), change).eval(), inputs()
    with torch.no_grad():
        quick = first(model(x))
    slow = first(model(x.requires_grad_()))
    assert float((slow - quick).norm() / quick.norm()) < tolerance
    slow.sum().backward()
    assert x.grad.abs().sum() > 0
    if any(p.requires_grad for p in model.parameters()):
        train_one_step(model, inputs())


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("enforced", [True, False])
def test_packed_sequences_and_given_states(kind, enforced):
    model = Sorted(kind(20, 16, 2, bidirectional=True, batch_first=True)).eval()
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
    assert float((sequence.data - theirs[0].data).norm() / theirs[0].data.norm()) < 0.05


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
            act(Sorted(layer()))


def test_ranges_must_have_been_measured():
    for layer in (nn.Linear(4, 4), nn.Conv2d(4, 4, 3)):
        model = Sorted(layer)
        for span in (None, (1.0, -1.0), (-torch.inf, 1.0)):
            with pytest.raises(Unfit, match="not measured"):
                Quantised("layer", "static", inputs=span, outputs=span).apply(copy.deepcopy(model))
