"""Rewritten convolutions: the best start that their form allows, refusals, and fresh models that take the weights."""

from __future__ import annotations

import pytest
import torch
from changed_layers import Holder, changed, conv_settings, redone, train_one_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from wellfit.errors import WellfitError
from wellfit.slim.changes import Unfit
from wellfit.slim.changes.grouped import Grouped, assigned
from wellfit.slim.changes.reduced import Reduced, reduction
from wellfit.slim.changes.separable import Separable, separated
from wellfit.slim.methods.rewrite import rewrite

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
CASES = {
    "separable": (nn.Conv2d, Separable("layer")),
    "separable, 2 each": (nn.Conv2d, Separable("layer", 2)),
    "separable 1d": (nn.Conv1d, Separable("layer")),
    "grouped": (nn.Conv2d, Grouped("layer", 4)),
    "grouped 1d": (nn.Conv1d, Grouped("layer", 2)),
    "reduced": (nn.Conv2d, Reduced("layer", 4)),
    "reduced 1d": (nn.Conv1d, Reduced("layer", 4)),
}
cases = pytest.mark.parametrize(("kind", "change"), CASES.values(), ids=CASES.keys())


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(kind) -> tuple[Holder, torch.Tensor]:
    model = Holder(kind(12, 16, 3, padding=1))
    return model, torch.randn(2, 12, *[9] * len(model.layer.kernel_size))


@cases
def test_a_fresh_model_takes_the_weights(kind, change):
    model, x = made(kind)
    slim = changed(model, change)
    torch.testing.assert_close(redone(model, change, slim)(x), slim(x), rtol=0, atol=0)
    assert slim(x).shape == model(x).shape
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())


@cases
def test_it_trains(kind, change):
    model, x = made(kind)
    train_one_step(changed(model, change), x)
    assert "distillation" in change.needs


@quick
@given(conv_settings(), st.sampled_from([nn.Conv1d, nn.Conv2d]), st.booleans())
def test_a_convolution_that_has_the_form_is_kept(options, kind, bias):
    """In every geometry: a kernel that is separable, grouped, or sees few channels is reproduced."""
    torch.manual_seed(2)
    model = Holder(kind(8, 12, 3, bias=bias, **options))
    shape = model.layer.weight.shape
    x = torch.randn(2, 8, *[11] * len(shape[2:]))
    grouped = torch.zeros(shape)
    order = torch.randperm(12)
    grouped[order[:6], :4] = torch.randn(6, 4, *shape[2:])
    grouped[order[6:], 4:] = torch.randn(6, 4, *shape[2:])
    kernels = {
        Separable("layer"): torch.einsum("ts,s...->ts...", torch.randn(12, 8), torch.randn(8, *shape[2:])),
        Reduced("layer", 3): torch.einsum("rs,tr...->ts...", torch.randn(3, 8), torch.randn(12, 3, *shape[2:])),
        Grouped("layer", 2): grouped,
    }
    for change, kernel in kernels.items():
        with torch.no_grad():
            model.layer.weight.copy_(kernel)
        torch.testing.assert_close(changed(model, change)(x), model(x), rtol=1e-3, atol=1e-3)


def test_errors_fall_to_nothing_and_are_what_they_say():
    w = torch.randn(10, 8, 3, 3)
    errors = [separated(w, m)[2] for m in (1, 3, 9)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6
    depthwise, over_channels, error = separated(w, 2)
    rebuilt = torch.einsum("tsm,smk->tsk", over_channels.reshape(10, 8, 2), depthwise.reshape(8, 2, 9))
    assert float((w.flatten(2) - rebuilt).norm() / w.norm()) == pytest.approx(error, rel=1e-4)
    errors = [reduction(w, r)[2] for r in (1, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6
    reduce, kernel, error = reduction(w, 3)
    rebuilt = torch.einsum("rs,tryx->tsyx", reduce, kernel)
    assert float((w - rebuilt).norm() / w.norm()) == pytest.approx(error, rel=1e-4)


@quick
@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_groups_are_full_and_take_what_weighs_most(groups, outputs, inputs, seed):
    w = torch.randn(groups * outputs, groups * inputs, 3, generator=torch.Generator().manual_seed(seed))
    small, order, error = assigned(w, groups)
    assert sorted(order.tolist()) == list(range(groups * outputs))
    for output, place in enumerate(order.tolist()):
        group = place // outputs
        torch.testing.assert_close(small[place], w[output, group * inputs : (group + 1) * inputs], rtol=0, atol=0)
    assert 1 - error**2 == pytest.approx(float(small.square().sum() / w.square().sum()), abs=1e-5)


def test_shuffled_convolutions_take_single_samples():
    model, x = made(nn.Conv2d)
    slim = changed(model, Grouped("layer", 4)).eval()
    torch.testing.assert_close(slim(x[0]), slim(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "change", "reason"),
    [
        (lambda: nn.Conv2d(12, 16, 3, groups=4), Separable("layer"), "4 groups"),
        (lambda: nn.Conv2d(16, 16, 3, groups=16), Separable("layer"), "depthwise"),
        (lambda: nn.Conv2d(12, 16, 1), Separable("layer"), "one place"),
        (lambda: nn.Conv2d(12, 16, 3), Separable("layer", 8), "nothing is gained"),
        (lambda: nn.Conv2d(12, 16, 3), Separable("layer", 10**9), "multiplier"),
        (lambda: nn.Conv2d(12, 16, 3), Grouped("layer", 3), "do not divide"),
        (lambda: nn.Conv2d(12, 16, 3), Grouped("layer", 1), "do not divide"),
        (lambda: nn.Conv2d(12, 16, 3), Grouped("layer", -4), "groups"),
        (lambda: nn.Conv2d(12, 16, 3), Reduced("layer", 12), "nothing is gained"),
        (lambda: nn.Conv2d(12, 16, 3), Reduced("layer", 0), "channels"),
        (lambda: nn.Linear(12, 16), Reduced("layer", 2), "Linear"),
    ],
)
def test_what_cannot_be_is_refused_and_left_alone(layer, change, reason):
    model = Holder(layer())
    before = list(model.state_dict())
    for act in (change.apply, change.redo):
        with pytest.raises(Unfit, match=reason):
            act(model)
    assert list(model.state_dict()) == before


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 1), nn.Flatten(), nn.Linear(800, 9)
    )


@pytest.mark.parametrize(("form", "fits"), [("separable", ["1"]), ("reduced", ["1"]), ("grouped", ["1", "2"])])
def test_a_form_is_proposed_where_it_fits_and_reasons_are_given_elsewhere(form, fits):
    model = network()
    found = rewrite(model, form)
    assert [change.layer for change in found.changes] == fits and "distillation" in found.needs
    assert found.skipped["0"] == "it is the first convolution" and "not a convolution" in found.skipped["4"]
    assert set(found.skipped) | set(fits) == {"0", "1", "2", "4"} and set(found.errors) == set(fits)
    for change in found.changes:
        change.apply(model)
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 9)
    with pytest.raises(WellfitError, match="no form"):
        rewrite(model, "octagonal")
    assert "from 1 to 3" in rewrite(network(), "grouped", first=True).skipped["0"]
