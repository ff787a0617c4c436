"""Masks and clusters beside slow, obvious ones."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from wellfit.overrides.slim._clusters import bits, cheapest, clusters, means, nearest
from wellfit.overrides.slim._masks import FEWEST, best, lamp, n_of_m

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers, some of them alike and some 0."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(numbers.abs() < 0.3, torch.zeros(()), (numbers * 8).round() / 8)


@given(SEEDS, st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_the_best_are_as_many_as_asked_and_no_worse_than_the_rest(
    seed: int, shapes: list[tuple[int, int]], share: float
) -> None:
    scores = [drawn(seed + index, *shape).abs() for index, shape in enumerate(shapes)]
    sizes = [score.numel() for score in scores]
    keep = round(share * sum(sizes))
    masks = best(scores, keep)
    fewest = sum(min(FEWEST, size) for size in sizes)
    assert sum(int(mask.sum()) for mask in masks) == max(keep, fewest)
    assert all(int(mask.sum()) >= min(FEWEST, size) for mask, size in zip(masks, sizes))
    dropped = [float(score[~mask].max()) for score, mask in zip(scores, masks) if not mask.all()]
    for score, mask in zip(scores, masks):
        chosen = score[mask].sort(descending=True).values
        # Beyond a layer's fewest nothing is kept that is smaller than anything that is dropped.
        if dropped and len(chosen) > FEWEST:
            assert float(chosen[-1]) >= max(dropped)
        if not mask.all():
            assert float(chosen[-1]) >= float(score[~mask].max())


@given(SEEDS, st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_lamp_is_its_definition(seed: int, count: int) -> None:
    weight = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    squares = weight.double().square()
    wanted = torch.stack([square / squares[squares >= square].sum() for square in squares])
    torch.testing.assert_close(lamp(weight.view(1, -1)).flatten(), wanted)


@given(SEEDS, st.integers(1, 3), st.integers(1, 19), st.integers(2, 6), st.data())
@settings(max_examples=100, deadline=None)
def test_of_m_neighbours_the_n_largest(seed: int, rows: int, length: int, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    weight = torch.randn(rows, length, 2, generator=torch.Generator().manual_seed(seed))
    mask = n_of_m(weight, 1, n, m)
    for row, kernel in itertools.product(range(rows), range(2)):
        for start in range(0, length, m):
            part, chosen = weight[row, start : start + m, kernel].abs(), mask[row, start : start + m, kernel]
            wanted = n if len(part) == m else -(-len(part) * n // m)
            assert int(chosen.sum()) == wanted
            assert chosen.all() or float(part[chosen].min()) >= float(part[~chosen].max())


@given(SEEDS, st.integers(1, 60), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_clusters_are_a_fixed_point_of_k_means(seed: int, count: int, most: int) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    centres, numbers = clusters(values, most)
    assert len(centres) <= most and torch.equal(centres, centres.sort().values)
    assert sorted(set(numbers.tolist())) == list(range(len(centres)))
    torch.testing.assert_close(centres, means(values, numbers, len(centres)))
    distances = (values.double()[:, None] - centres).abs()
    torch.testing.assert_close(distances.min(1).values, distances.gather(1, numbers[:, None])[:, 0])
    assert torch.equal(nearest(values.double(), centres), numbers)


@pytest.mark.parametrize("price", [0.02, 0.2])
def test_a_price_for_bits_makes_error_and_bits_together_smaller(price: float) -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))

    def cost(centres: torch.Tensor, numbers: torch.Tensor) -> float:
        error = (values.double() - centres[numbers]).square() / values.double().var(correction=0)
        return float(error.sum() + price * bits(numbers, len(centres))[numbers].sum())

    plain, priced = clusters(values, 16), clusters(values, 16, price=price)
    assert cost(*priced) < cost(*plain)
    entropy = [float(bits(numbers, len(centres))[numbers].mean()) for centres, numbers in (plain, priced)]
    assert entropy[1] < entropy[0] - 0.1


def test_important_values_lie_nearer_to_their_centres() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    importance = torch.where(values > 0, 10.0, 0.1)
    plain, weighed = clusters(values, 8), clusters(values, 8, importance)

    def error(found: tuple[torch.Tensor, torch.Tensor]) -> float:
        return float((values - found[0][found[1]]).square()[values > 0].sum())

    assert error(weighed) < 0.9 * error(plain)


def test_the_cheapest_centre() -> None:
    values, centres = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    assert cheapest(values, centres, weights, torch.tensor([0.5, 0.0])).tolist() == [0, 1, 1]
    assert cheapest(values, centres, weights, torch.tensor([0.0, 0.5])).tolist() == [0, 0, 0]
