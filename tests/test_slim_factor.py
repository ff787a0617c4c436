"""Factored layers: full rank is the layer itself, the error falls with the rank, a fresh model takes the weights."""

from __future__ import annotations

import copy
import dataclasses
from importlib import import_module

import pytest
import torch
from changed_layers import Holder, changed, conv_settings, redone, train_one_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from wellfit.errors import WellfitError
from wellfit.slim.changes import Unfit
from wellfit.slim.changes.cp import Cp, cp_factors
from wellfit.slim.changes.steps import Steps
from wellfit.slim.changes.svd import Svd, factored, largest_rank
from wellfit.slim.changes.tucker import Tucker, tucker2, tucker_parameters
from wellfit.slim.measure.inputs import Inputs
from wellfit.slim.methods.factor import by_energy, by_share, by_target, rank_of_energy, steps_where_faster

factor_module = import_module("wellfit.slim.methods.factor")

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


CASES = {
    "linear": (lambda: nn.Linear(40, 30), lambda: torch.randn(5, 40), Svd("layer", 8)),
    "linear without bias": (lambda: nn.Linear(40, 30, bias=False), lambda: torch.randn(2, 3, 40), Svd("layer", 8)),
    "embedding": (
        lambda: nn.Embedding(50, 20, padding_idx=3),
        lambda: torch.randint(0, 50, (4, 6)),
        Svd("layer", 6),
    ),
    "conv 1x1": (lambda: nn.Conv2d(20, 24, 1, 2, 1), lambda: torch.randn(2, 20, 7, 6), Svd("layer", 5)),
    "lstm": (lambda: nn.LSTM(40, 8, 2, bidirectional=True), lambda: torch.randn(5, 2, 40), Svd("layer", 6)),
    "gru": (lambda: nn.GRU(40, 8, batch_first=True), lambda: torch.randn(5, 2, 40), Svd("layer", 6)),
    "rnn": (lambda: nn.RNN(40, 16, nonlinearity="relu"), lambda: torch.randn(5, 2, 40), Svd("layer", 6)),
    "lstm steps": (
        lambda: nn.LSTM(10, 24, 2, bidirectional=True),
        lambda: torch.randn(5, 3, 10),
        Steps("layer", 6),
    ),
    "gru steps": (lambda: nn.GRU(10, 24, batch_first=True), lambda: torch.randn(5, 3, 10), Steps("layer", 6)),
    "tucker": (lambda: nn.Conv2d(12, 16, 3, padding=1), lambda: torch.randn(2, 12, 8, 7), Tucker("layer", 4, 5)),
    "tucker 1d": (lambda: nn.Conv1d(12, 16, 5, 2, 2), lambda: torch.randn(2, 12, 18), Tucker("layer", 4, 5)),
    "cp": (lambda: nn.Conv2d(12, 16, 3, padding=1), lambda: torch.randn(2, 12, 8, 7), Cp("layer", 9)),
    "cp 1d": (lambda: nn.Conv1d(12, 16, 5, padding=2), lambda: torch.randn(2, 12, 18), Cp("layer", 9)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@cases
def test_a_fresh_model_takes_the_weights(case):
    make, inputs, change = case
    model, x = Holder(make()).eval(), inputs()
    slim = changed(model, change)
    again = redone(model, change, slim).eval()
    torch.testing.assert_close(again(x), slim(x), rtol=0, atol=0)
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())


@cases
def test_it_trains(case):
    make, inputs, change = case
    slim = changed(Holder(make()), change)
    train_one_step(slim, inputs())


@pytest.mark.parametrize("rank", [1, 7, 30])
def test_the_error_of_svd_is_what_it_says(rank):
    w = torch.randn(30, 40)
    a, b, error = factored(w, rank)
    assert float((w - b @ a).norm() / w.norm()) == pytest.approx(error, abs=1e-5)
    assert error == pytest.approx(0, abs=1e-5) if rank == 30 else error > 0.05


def test_the_whole_rank_is_the_layer_itself():
    """Weights of low rank lose nothing."""
    model = Holder(nn.Linear(64, 48))
    with torch.no_grad():
        model.layer.weight.copy_(torch.randn(48, 5) @ torch.randn(5, 64))
    x = torch.randn(3, 64)
    torch.testing.assert_close(changed(model, Svd("layer", 5))(x), model(x), rtol=1e-4, atol=1e-4)
    table = Holder(nn.Embedding(64, 48, padding_idx=0))
    with torch.no_grad():
        table.layer.weight.copy_(torch.randn(64, 5) @ torch.randn(5, 48))
        table.layer.weight[0] = 0
    slim = changed(table, Svd("layer", 6))
    tokens = torch.arange(64)
    torch.testing.assert_close(slim(tokens), table(tokens), rtol=1e-4, atol=1e-4)
    slim(tokens).sum().backward()
    assert slim.layer[0].weight.grad[0].abs().max() == 0  # padding stays without a gradient


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_keep_what_is_behind_their_input(kind, bidirectional):
    model = Holder(kind(30, 10, num_layers=2, bidirectional=bidirectional, batch_first=True))
    names = ["weight_ih_l0", "weight_ih_l0_reverse"][: 1 + bidirectional]
    basis = torch.randn(4, 30)
    with torch.no_grad():
        for name in names:
            weight = getattr(model.layer, name)
            weight.copy_(0.3 * torch.randn(weight.shape[0], 4) @ basis)
    slim = changed(model, Svd("layer", 4))
    x = torch.randn(3, 6, 30)
    for ours, theirs in zip(slim(x)[0], model(x)[0]):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    packed = pack_padded_sequence(x, torch.tensor([6, 4, 2]), batch_first=True)
    torch.testing.assert_close(slim(packed)[0].data, model(packed)[0].data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_steps_of_recurrent_weights_of_low_rank_are_the_layer_itself(kind, bias, bidirectional):
    """Dense, packed in both orders, single sequences; with a state and without."""
    model = Holder(kind(7, 16, 2, bias=bias, bidirectional=bidirectional, batch_first=True))
    with torch.no_grad():
        for name, parameter in model.layer.named_parameters():
            if name.startswith("weight_hh"):
                parameter.copy_(0.3 * torch.randn(len(parameter), 3) @ torch.randn(3, 16))
    slim = changed(model, Steps("layer", 3))
    x, start = torch.randn(3, 6, 7), torch.randn(4 if bidirectional else 2, 3, 16)
    state = (start, start + 1) if kind is nn.LSTM else start
    packed = [
        pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        for lengths in ([6, 4, 2], [2, 6, 6], [3, 3, 3])
    ]
    for steps in (x, x[0], *packed):
        one = (start[:, 0], start[:, 0] + 1) if kind is nn.LSTM else start[:, 0]
        for begun in (None, one if steps is not x and isinstance(steps, torch.Tensor) else state):
            (ours, last), (theirs, expected) = slim.layer(steps, begun), model.layer(steps, begun)
            both = (ours, theirs) if isinstance(steps, torch.Tensor) else (ours.data, theirs.data)
            torch.testing.assert_close(*both, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-4)


@quick
@given(conv_settings(), st.sampled_from([nn.Conv1d, nn.Conv2d]), st.booleans())
def test_a_core_of_all_ranks_is_the_convolution(options, kind, bias):
    """Tucker-2 and CP of kernels that have these ranks, with every geometry."""
    torch.manual_seed(1)
    model = Holder(kind(9, 10, 3, bias=bias, **options))
    shape = model.layer.weight.shape
    with torch.no_grad():
        core = torch.randn(3, 2, *shape[2:])
        model.layer.weight.copy_(torch.einsum("tp,pq...,sq->ts...", torch.randn(10, 3), core, torch.randn(9, 2)))
    x = torch.randn(2, 9, *[11] * len(shape[2:]))
    torch.testing.assert_close(changed(model, Tucker("layer", 2, 3))(x), model(x), rtol=1e-3, atol=1e-3)
    letters = "yx"[: len(shape) - 2]
    factors = [torch.randn(size, 3) for size in shape]
    with torch.no_grad():
        model.layer.weight.copy_(torch.einsum(f"tr,sr,{','.join(f'{i}r' for i in letters)}->ts{letters}", *factors))
    torch.testing.assert_close(changed(model, Cp("layer", 3))(x), model(x), rtol=1e-2, atol=1e-2)


def test_paddings_by_name():
    for padding in ("same", "valid"):
        model = Holder(nn.Conv2d(8, 8, (3, 4), padding=padding))
        x = torch.randn(2, 8, 9, 9)
        for change in (Tucker("layer", 4, 4), Cp("layer", 12)):
            assert changed(model, change)(x).shape == model(x).shape


def test_errors_fall_with_the_rank_to_nothing():
    w = torch.randn(8, 6, 3, 3)
    tucker = [tucker2(w, r, r + 2).error for r in (1, 3, 5, 6)]
    assert tucker == sorted(tucker, reverse=True) and tucker[-1] < 1e-6
    cp = [cp_factors(w, r)[1] for r in (1, 4, 16, 54)]
    assert cp == sorted(cp, reverse=True) and cp[-1] < 1e-3


def test_the_error_of_cp_is_what_it_says():
    w = torch.randn(8, 6, 3, 3)
    (t, s, y, x), error = cp_factors(w, 7)
    rebuilt = torch.einsum("tr,sr,yr,xr->tsyx", t, s, y, x)
    assert float((w - rebuilt).norm() / w.norm()) == pytest.approx(error, rel=1e-3)
    lengths = [factor.norm(dim=0).max() / factor.norm(dim=0).min() for factor in (t, s, y, x)]
    assert max(lengths) < 100  # no component runs away


def test_alternating_is_better_than_its_start():
    w = torch.randn(16, 16, 3, 3)
    parts = tucker2(w, 4, 4)
    start_out = torch.linalg.svd(w.flatten(1).double())[0][:, :4]
    start_in = torch.linalg.svd(w.transpose(0, 1).flatten(1).double())[0][:, :4]
    core = torch.einsum("tsyx,tp,sq->pqyx", w.double(), start_out, start_in)
    hosvd = float((1 - core.square().sum() / w.double().square().sum()).sqrt())
    assert parts.error < hosvd
    assert tucker_parameters((16, 16, 3, 3), 4, 4) == 16 * 4 + 9 * 16 + 4 * 16


@pytest.mark.parametrize(
    ("layer", "change", "reason"),
    [
        (lambda: nn.Linear(40, 30), Svd("layer", 18), "rank"),
        (lambda: nn.Linear(40, 30), Svd("layer", 0), "rank"),
        (lambda: nn.Linear(40, 30), Svd("other", 3), "no layer 'other'"),
        (lambda: nn.Linear(40, 30), Svd("", 3), "the model itself"),
        (lambda: nn.Linear(1, 30), Svd("layer", 1), "no two factors"),
        (lambda: nn.Linear(40, 30, dtype=torch.complex64), Svd("layer", 3), "complex64"),
        (lambda: nn.utils.weight_norm(nn.Linear(40, 30)), Svd("layer", 3), "weight_norm"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(40, 30)), Svd("layer", 3), "Parametrized"),
        (lambda: nn.Embedding(40, 30, max_norm=1.0), Svd("layer", 3), "max_norm"),
        (lambda: nn.LSTM(40, 30, proj_size=4), Svd("layer", 3), "projections"),
        (lambda: nn.LSTM(40, 30, proj_size=4), Steps("layer", 3), "projections"),
        (lambda: nn.LSTM(40, 30), Steps("layer", 24), "rank"),
        (lambda: nn.RNN(40, 30), Steps("layer", 3), "RNN"),
        (lambda: nn.Conv2d(8, 8, 3), Svd("layer", 3), "tucker"),
        (lambda: nn.Conv2d(8, 8, 1), Tucker("layer", 3, 3), "svd"),
        (lambda: nn.Conv2d(8, 8, 3, groups=8), Tucker("layer", 3, 3), "depthwise"),
        (lambda: nn.Conv2d(8, 8, 3, groups=2), Cp("layer", 3), "2 groups"),
        (lambda: nn.Conv2d(8, 8, 3), Tucker("layer", 8, 8), "nothing is gained"),
        (lambda: nn.Conv2d(8, 8, 3), Tucker("layer", 9, 3), "rank_in"),
        (lambda: nn.Conv2d(8, 8, 3), Cp("layer", 30), "nothing is gained"),
        (lambda: nn.Conv2d(8, 8, 3), Cp("layer", 10**12), "rank"),
        (lambda: nn.ConvTranspose2d(8, 8, 3), Cp("layer", 3), "ConvTranspose2d"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_is_refused_and_left_alone(layer, change, reason):
    model = Holder(layer())
    before = list(model.state_dict())
    for act in (change.apply, change.redo):
        with pytest.raises(Unfit, match=reason):
            act(model)
    assert list(model.state_dict()) == before


def test_weights_that_are_not_finite_are_refused():
    for layer, change in ((nn.Linear(9, 9), Svd("layer", 2)), (nn.Conv2d(9, 9, 3), Tucker("layer", 2, 2))):
        with torch.no_grad():
            layer.weight[0, 0] = torch.nan
        with pytest.raises(Unfit, match="not finite"):
            change.apply(Holder(layer))


def test_tied_weights_are_refused():
    model = nn.ModuleDict({"in": nn.Embedding(30, 20), "out": nn.Linear(20, 30, bias=False)})
    model["out"].weight = model["in"].weight
    with pytest.raises(Unfit, match="tied to that of out"):
        Svd("in", 3).apply(model)


def test_a_layer_at_two_places_is_changed_at_both():
    shared = nn.Linear(20, 20)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    Svd("0", 4).apply(model)
    assert model[0] is model[2] and len(model[0]) == 2


def test_attention_reads_its_weights_past_the_layer():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2).eval()
    with pytest.raises(Unfit, match="NonDynamicallyQuantizableLinear"):
        Svd("layers.0.self_attn.out_proj", 4).apply(model)
    fast, slim = copy.deepcopy(model), copy.deepcopy(model)
    Svd("layers.0.linear1", 8).apply(slim)
    with torch.no_grad():  # what torch would do with the same weights, by its fused operation
        fast.layers[0].linear1.weight.copy_(slim.layers[0].linear1.weight)
        x = torch.randn(2, 5, 32)
        torch.testing.assert_close(slim(x), fast(x), rtol=1e-4, atol=1e-5)


def test_frozen_and_half_precision_layers_stay_so():
    model = Holder(nn.Linear(40, 30).bfloat16())
    model.layer.requires_grad_(False)
    slim = changed(model, Svd("layer", 4))
    assert {p.dtype for p in slim.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in slim.parameters())


@quick
@given(st.integers(1, 300), st.integers(1, 300))
def test_the_largest_rank_is_the_largest_that_gains(rows, columns):
    rank = largest_rank(rows, columns)
    assert rank * (rows + columns) < rows * columns <= (rank + 1) * (rows + columns)


def mixed_model() -> nn.Sequential:
    """Layers of low rank with a little noise, one with no small rank, and one that cannot be factored."""
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(), nn.Linear(64, 64)
    )
    with torch.no_grad():
        core = torch.einsum("tp,pqyx,sq->tsyx", torch.randn(16, 3), torch.randn(3, 2, 3, 3), torch.randn(8, 2))
        model[0].weight.copy_(core + 0.01 * torch.randn(core.shape))
        model[1].weight.copy_(torch.linalg.qr(torch.randn(16, 16))[0][..., None, None])
        model[4].weight.copy_(torch.randn(64, 4) @ torch.randn(4, 64))
    return model


def test_ranks_by_energy_find_the_ranks_that_are_there():
    model = mixed_model()
    found = by_energy(model, 0.99)
    assert found.changes == (Tucker("0", 2, 3), Svd("4", 4))
    assert "rank" in found.skipped["1"] and "depthwise" in found.skipped["2"]
    assert set(found.skipped) == {"1", "2"} and found.errors["0"] < 0.1 and found.errors["4"] < 1e-5
    assert by_energy(model, 0.99, convs="cp").changes[0] == Cp("0", 5)
    for change in found.changes:
        change.apply(model)


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("convs", ["tucker", "cp"])
def test_ranks_by_share_use_at_most_that_share(share, convs):
    model = nn.ModuleDict({"conv": nn.Conv2d(16, 20, 3), "linear": nn.Linear(60, 50), "table": nn.Embedding(90, 40)})
    found = by_share(model, share, convs=convs)
    assert [change.layer for change in found.changes] == ["conv", "linear", "table"]
    for change in found.changes:
        layer = model[change.layer]
        whole = layer.weight.numel()
        change.apply(model)
        now = sum(p.numel() for p in model[change.layer].parameters() if p.ndim > 1)
        assert 0.7 * share * whole < now <= share * whole


def test_a_target_goes_where_it_keeps_most():
    torch.manual_seed(1)
    model = nn.ModuleDict({name: nn.Linear(60, 60, bias=False) for name in ("low", "high", "whole")})
    with torch.no_grad():
        model["low"].weight.copy_(torch.randn(60, 3) @ torch.randn(3, 60))
        model["high"].weight.copy_(torch.randn(60, 20) @ torch.randn(20, 60))
    for share in (0.2, 0.5):
        found = by_target(model, share)
        ranks = {change.layer: change.rank for change in found.changes}
        assert ranks["low"] <= 4 < ranks["high"]
        slim = copy.deepcopy(model)
        for change in found.changes:
            change.apply(slim)
        assert sum(p.numel() for p in slim.parameters()) <= share * 3 * 3600
        best = sum(error**2 for error in found.errors.values())
        even = sum(factored(layer.weight, int(share * 30)).error ** 2 for layer in model.values())
        assert best < even
    assert "whole" not in {change.layer for change in by_target(model, 0.9).changes}


def test_wishes_out_of_range_and_weights_that_are_not_finite():
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(WellfitError, match="above 0 up to 1"):
            by_energy(nn.Linear(4, 4), wrong)
    model = nn.ModuleDict({"ill": nn.Linear(20, 20), "zero": nn.Linear(20, 20)})
    with torch.no_grad():
        model["ill"].weight[0] = torch.inf
        model["zero"].weight.zero_()
    found = by_energy(model, 0.5)
    assert "not finite" in found.skipped["ill"] and found.changes == (Svd("zero", 1),)
    assert "not finite" in by_target(model, 0.5).skipped["ill"]


def test_rank_of_energy():
    values = torch.tensor([4.0, 2.0, 1.0])
    assert [rank_of_energy(values, energy) for energy in (0.1, 16 / 21, 0.77, 20 / 21, 0.96, 1.0)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("speedup", [0.4, 2.0])
def test_steps_are_factored_only_where_that_is_faster(monkeypatch, speedup):
    model, inputs = nn.Sequential(nn.LSTM(6, 24), nn.Identity()), Inputs.of(torch.randn(4, 2, 6))
    with torch.no_grad():
        model[0].weight_hh_l0.copy_(torch.randn(96, 3) @ torch.randn(3, 24))
    real = factor_module.tried
    monkeypatch.setattr(
        factor_module, "tried", lambda *a, **k: dataclasses.replace(real(*a, **{**k, "seconds": 0}), speedup=speedup)
    )
    model.forward = lambda x: model[0](x)[0]
    found = steps_where_faster(model, inputs, 0.99)
    if speedup < 1.2:
        assert not found.changes and found.skipped["0"] == "in two factors it is 0.40 times as fast here, not 1.2"
    else:
        assert found.changes == (Steps("0", 3),) and found.errors["0"] < 1e-4
