"""Weights that are pruned, share values, lie on a grid or are rounded, without training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfit.overrides.slim._clusters import clusters
from wellfit.slim.changes import Unfit
from wellfit.slim.methods.grid import on_grid
from wellfit.slim.methods.prune import pruned
from wellfit.slim.methods.rounding import rounded
from wellfit.slim.methods.share import shared


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 1 << 30), st.integers(1, 400), st.integers(1, 20), st.sampled_from([0.0, 0.01, 0.3]))
def test_clusters_of_sorted_values_are_those_of_lloyd(seed: int, count: int, most: int, price: float) -> None:
    torch.manual_seed(seed)
    values = torch.randn(count).mul(4).round().div(4) if seed % 3 == 0 else torch.randn(count)
    centres, numbers = clusters(values, most, price=price)
    slow_centres, slow_numbers = clusters(values, most, torch.ones(count), price)
    assert len(centres) <= most and bool((centres.diff() > 0).all()) and numbers.unique().numel() == len(centres)
    assert torch.equal(numbers, (values.double()[:, None] - centres).abs().argmin(1)) or price > 0
    if seed % 3:  # values that are alike may lie between two clusters, and go either way
        assert torch.allclose(centres, slow_centres, atol=1e-4) and torch.equal(numbers, slow_numbers)


def test_values_that_are_changed() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 30)
    assert int((pruned(weight, 0.5) == 0).sum()) == 180
    kept = pruned(weight, 0.5)
    assert float(kept[kept != 0].abs().min()) >= float(weight[kept == 0].abs().max())
    few = shared(kept, 4)
    assert torch.equal(few == 0, kept == 0) and few.unique().numel() <= 5
    for bits in (2, 4, 8):
        gridded = on_grid(weight, bits)
        scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert float(((gridded - weight).abs() / scale).max()) <= 0.5 + 1e-4
        assert all(row.abs().unique().numel() <= 2 ** (bits - 1) for row in gridded)
    assert torch.equal(rounded(weight, "bf16"), weight.bfloat16().float())
    with pytest.raises(Unfit, match="does not fit into fp16"):
        rounded(weight * 1e6, "fp16")
    assert torch.equal(shared(torch.zeros(3, 3), 4), torch.zeros(3, 3))
