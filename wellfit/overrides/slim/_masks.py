"""Which weights are kept: scores, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

FEWEST = 8  # weights that a layer keeps, whatever is asked: without any it would hand on nothing


def best(scores: Sequence[torch.Tensor], keep: int, fewest: Sequence[int] | None = None) -> list[torch.Tensor]:
    """The weights of the highest scores, all layers together.

    Args:
        scores: one tensor a layer, of any shape.
        keep: how many in all; each layer keeps at least its `FEWEST` best, which count.
        fewest: of each layer, in the place of `FEWEST`.

    Returns:
        a tensor of bools for each, with `keep` times True in all (more only where the layers' fewest are more).
    """
    least = [min(few, score.numel()) for few, score in zip(fewest or [FEWEST] * len(scores), scores, strict=True)]
    flat = torch.cat([_with_fewest(score, few) for score, few in zip(scores, least, strict=True)])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[torch.topk(flat, min(len(flat), max(keep, sum(least))), sorted=False).indices] = True
    parts = torch.split(chosen, [score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def _with_fewest(score: torch.Tensor, fewest: int) -> torch.Tensor:
    flat = score.flatten().clone()
    if fewest:
        flat[torch.topk(flat, fewest, sorted=False).indices] = math.inf
    return flat


def lamp(weight: torch.Tensor) -> torch.Tensor:
    """Layer-adaptive magnitude: w^2 over the sum of the squares of all weights of the layer that are no smaller.

    Source: Lee, Park, Mo, Ahn, Shin, Layer-adaptive sparsity for the magnitude-based pruning (2021), equation 3.

    Returns:
        a tensor of its shape, in float64: the largest weight has 1.
    """
    squares = weight.double().square().flatten()
    ordered, places = squares.sort()
    larger = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[places] = ordered / larger.clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(weight.shape)


def n_of_m(weight: torch.Tensor, axis: int, n: int, m: int) -> torch.Tensor:
    """The `n` largest of each `m` neighbours along an axis; of a shorter group at its end as large a share, rounded up.

    Source: Mishra et al., Accelerating sparse deep neural networks (2021).
    """
    rows = weight.abs().movedim(axis, -1)
    length = rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (0, -length % m), value=-1.0)
    groups = padded.reshape(*rows.shape[:-1], -1, m)
    chosen = torch.zeros_like(groups, dtype=torch.bool)
    chosen.scatter_(-1, groups.topk(n, sorted=False).indices, True)
    rest = length % m
    if rest:
        last = groups[..., -1, :]
        chosen[..., -1, :] = False
        chosen[..., -1, :].scatter_(-1, last.topk(math.ceil(rest * n / m), sorted=False).indices, True)
    return chosen.reshape(padded.shape)[..., :length].movedim(-1, axis)


def cubic(amount: float, progress: float) -> float:
    """The share that is pruned when a share of the pruning's time has gone by: s_f - s_f (1 - t)^3, from 0.

    Source: Zhu, Gupta, To prune, or not to prune (2017), equation 1.
    """
    return amount * (1 - (1 - min(max(progress, 0.0), 1.0)) ** 3)


def steep(amount: float, progress: float) -> float:
    """The share that is pruned where what is kept shrinks by a factor in each part of the time, ever less towards the
    end: 1 - (1 - s_f)^(1 - (1 - t)^1.5), from 0. Much is gone soon, and the last weights go slowly.
    """
    left = 1 - min(max(progress, 0.0), 1.0)
    return 1 - (1 - amount) ** (1 - left**1.5) if amount < 1 else cubic(amount, progress)
