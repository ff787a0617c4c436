"""Clusters of numbers: k-means in one dimension, and the same with a price for the bits of a cluster's number."""

from __future__ import annotations

import math

import torch

_ROUNDS = 300  # of Lloyd's algorithm; it ends when no value changes its cluster
_CHUNK = 1 << 22  # costs that are computed at once


def clusters(
    values: torch.Tensor, count: int, importance: torch.Tensor | None = None, price: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters of some numbers, from a start at equal distances between the smallest and the largest.

    The start at equal distances keeps the few large weights, which matter most (Han, Mao, Dally, Deep Compression,
    2016, section 3.2). With a price, sum_i h_i (w_i - c)^2 - price * sum_i log2 p(c) is made small, where h is the
    importance over its mean times one over the variance of the values, and p(c) the share of the values in a cluster:
    entropy-constrained k-means, Choi, El-Khamy, Lee, Towards the Limit of Network Quantization (2017), section 4.

    Args:
        values: shape [n], real, at least one.
        count: clusters at most, from 1.
        importance: shape [n], not negative; None: all alike.
        price: of a bit, in units of the variance of the values.

    Returns:
        centres, in float64 and rising, and for each value the number of its cluster: shape [n], int64. Clusters without
        values are left out.
    """
    if importance is None:
        return _sorted_clusters(values.double(), count, price)
    exact, weights = values.double(), _weights(values, importance)
    centres = torch.linspace(float(exact.min()), float(exact.max()), count, dtype=torch.float64, device=values.device)
    numbers = nearest(exact, centres)
    for _ in range(_ROUNDS):
        centres, numbers = _without_empty(_centres(exact, weights, numbers, len(centres)), numbers)
        following = _chosen(exact, centres, numbers, weights, price)
        if torch.equal(following, numbers):
            break
        numbers = following
    return _without_empty(_centres(exact, weights, numbers, len(centres)), numbers)


def moved(
    values: torch.Tensor, numbers: torch.Tensor, count: int, importance: torch.Tensor | None = None, price: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One round of `clusters`, for values that have changed a little since.

    Args:
        values, importance, price: see `clusters`.
        numbers: shape [n], int64: to which cluster each belongs so far.
        count: of clusters.

    Returns:
        as `clusters`.
    """
    exact, weights = values.double(), _weights(values, importance)
    centres, numbers = _without_empty(_centres(exact, weights, numbers, count), numbers)
    numbers = _chosen(exact, centres, numbers, weights, price)
    return _without_empty(_centres(exact, weights, numbers, len(centres)), numbers)


def _sorted_clusters(exact: torch.Tensor, count: int, price: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The same where all values are alike: a cluster is a stretch of the sorted values then, so that a round needs the
    places of a few borders and sums up to there, however many values there are."""
    rising = exact.sort().values
    sums = torch.cat([rising.new_zeros(1), rising.cumsum(0)])
    variance = float(exact.var(correction=0))
    centres = torch.linspace(float(rising[0]), float(rising[-1]), count, dtype=torch.float64, device=exact.device)
    borders = _borders(rising, centres, torch.zeros_like(centres))
    for _ in range(_ROUNDS):
        counts = borders.diff()
        prices = price * variance * -(counts / len(exact)).log2()
        following = _borders(rising, sums[borders].diff() / counts, prices)
        if torch.equal(following, borders):
            break
        borders = following
    return sums[borders].diff() / borders.diff(), torch.bucketize(exact, rising[borders[1:-1] - 1])


def _borders(rising: torch.Tensor, centres: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
    """Where the values of each cluster that has some begin, and how many values there are: shape [clusters + 1].

    (w - c)^2 + p is, but for w^2, a line in w; so the cheapest centres are those on the lower hull of lines, and each
    has one stretch of values.
    """
    hull: list[int] = []
    starts: list[float] = []  # where the line becomes the lowest
    middle, price = centres.tolist(), prices.tolist()
    for new in range(len(middle)):
        while hull:
            old = hull[-1]
            gap = middle[new] - middle[old]
            at = (middle[new] + middle[old]) / 2 + (price[new] - price[old]) / (2 * gap) if gap > 0 else -math.inf
            if at > starts[-1]:
                break
            hull.pop()
            starts.pop()
        hull.append(new)
        starts.append(at if len(hull) > 1 else -math.inf)
    places = torch.searchsorted(rising, torch.tensor(starts, dtype=rising.dtype, device=rising.device))
    borders: torch.Tensor = torch.unique_consecutive(torch.cat([places, places.new_tensor([len(rising)])]))
    return borders


def nearest(values: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """For each value the number of the nearest centre. Centres rise."""
    return torch.bucketize(values, (centres[1:] + centres[:-1]) / 2)


def bits(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """-log2 of the share of the values in each cluster: what its number costs an ideal coder."""
    counts = torch.bincount(numbers, minlength=count).double()
    return -(counts / counts.sum()).log2()


def cheapest(values: torch.Tensor, centres: torch.Tensor, weights: torch.Tensor, prices: torch.Tensor) -> torch.Tensor:
    """For each value the number of the centre with the least weight * (value - centre)^2 + price."""
    found = [
        (weight[:, None] * (value[:, None] - centres).square() + prices).argmin(1)
        for value, weight in zip(*(torch.split(each, max(1, _CHUNK // len(centres))) for each in (values, weights)))
    ]
    return torch.cat(found)


def means(values: torch.Tensor, numbers: torch.Tensor, count: int) -> torch.Tensor:
    """The mean of the values in each cluster, in float64; 0 for one without values."""
    return _centres(values.double(), torch.ones_like(values, dtype=torch.float64), numbers, count).nan_to_num(0.0)


def _weights(values: torch.Tensor, importance: torch.Tensor | None) -> torch.Tensor:
    """The importance over its mean; a value without any still belongs somewhere."""
    if importance is None:
        return torch.ones_like(values, dtype=torch.float64)
    weights = importance.double()
    mean = float(weights.mean())
    return weights / mean + 1e-6 if mean > 0 else torch.ones_like(weights)


def _chosen(
    exact: torch.Tensor, centres: torch.Tensor, numbers: torch.Tensor, weights: torch.Tensor, price: float
) -> torch.Tensor:
    """For each value the number of the cluster to which it goes."""
    variance = float(exact.var(correction=0)) if price > 0 else 0.0
    if not variance > 0:
        return nearest(exact, centres)
    return cheapest(exact, centres, weights / variance, price * bits(numbers, len(centres)))


def _centres(values: torch.Tensor, weights: torch.Tensor, numbers: torch.Tensor, count: int) -> torch.Tensor:
    """NaN for a cluster without values."""
    sums = torch.bincount(numbers, weights * values, count)
    return sums / torch.bincount(numbers, weights, count)


def _without_empty(centres: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Without the clusters that have no values, in rising order."""
    there = ~centres.isnan()
    order = centres[there].argsort()
    place = torch.empty(len(order), dtype=torch.int64, device=centres.device)
    place[order] = torch.arange(len(order), device=centres.device)
    renamed = torch.full((len(centres),), -1, dtype=torch.int64, device=centres.device)
    renamed[there] = place
    return centres[there][order], renamed[numbers]
