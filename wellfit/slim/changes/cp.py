"""A CP (canonical polyadic) decomposition in place of a convolution: 1x1, one depthwise convolution an axis, 1x1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._convs import along, check_smaller, conv_at, fill, finite, pointwise
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, like

if TYPE_CHECKING:
    import torch
    from torch import nn

ROUNDS = 200
STARTS = 3
"""One from the singular vectors of the unfoldings, the others random;"""
SMALL = 1 << 26
"""in layers of up to so many numbers in rank x kernel: larger ones start once, else a fit takes minutes."""
SETTLED = 1e-6
RIDGE = 1e-9
"""Of the mean diagonal of a normal matrix: keeps two components from cancelling each other with ever larger weights."""
FIT_LIMIT = 1 << 31
"""Numbers in rank x kernel: beyond it a fit would take hours."""


@dataclass(frozen=True)
class Cp(Replacement):
    """A Conv2d (T outputs, S inputs, kernel h x w) becomes four convolutions, a Conv1d (kernel h) three:

        1x1: S -> rank;  depthwise h x 1;  depthwise 1 x w;  1x1: rank -> T with the bias

    with `rank (S + h + w + T)` weights for `h w S T`. Stride, padding and dilation along an axis go to the depthwise
    convolution along it.

    Args:
        layer: as in `model.named_modules()`.
        rank: number of components; refused where all together are not smaller.

    Source: Lebedev et al., Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition, 2014.
    """

    name: ClassVar[str] = "cp"
    rank: int

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        old = conv_at(model, self.layer)
        check_count(self.layer, "rank", self.rank, FIT_LIMIT // old.weight.numel())
        check_smaller(self.layer, old, cp_parameters(old.weight.shape, self.rank))
        return old

    def _made(self, old: Any) -> Any:
        from torch import nn

        axes = [
            type(old)(self.rank, self.rank, groups=self.rank, bias=False, **along(old, axis), **like(old))
            for axis in range(len(old.kernel_size))
        ]
        last = pointwise(old, self.rank, old.out_channels, bias=old.bias is not None)
        return nn.Sequential(pointwise(old, old.in_channels, self.rank), *axes, last)

    def _fill(self, old: Any, new: Any) -> None:
        factors, _ = cp_factors(old.weight, self.rank)
        outputs, inputs, *axes = factors
        fill(new, [inputs.T, *(axis.T for axis in axes), outputs], old.bias)


def cp_parameters(shape: tuple[int, ...], rank: int) -> int:
    """Weights of the convolutions that stand for one of this shape (outputs, inputs, *kernel)."""
    return rank * sum(shape)


def cp_factors(weight: torch.Tensor, rank: int) -> tuple[list[torch.Tensor], float]:
    """K[t, s, ...] ~ sum over r of T[t, r] S[s, r] ..., by alternating least squares; the best of several starts.

    After each round the columns of all factors are scaled to length 1 and the component's weight is kept apart, so that
    no factor overflows while another vanishes; at the end it is shared out evenly.

    Args:
        weight: (outputs, inputs, *kernel), real.
        rank: at least 1.

    Returns:
        a factor (size, rank) for each dimension, and |K - K'| / |K|. Equal weights give equal factors.

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    tensor = finite(weight)
    total = float(tensor.square().sum())
    if not total:
        return [weight.new_zeros(size, rank) for size in weight.shape], 0.0
    unfoldings = [tensor.movedim(mode, 0).flatten(1) for mode in range(tensor.ndim)]
    generator = torch.Generator(device=tensor.device).manual_seed(0)
    best: tuple[list[torch.Tensor], float] | None = None
    for start in range(STARTS if rank * tensor.numel() <= SMALL else 1):
        factors = [_start(unfolding, rank, generator, leading=start == 0) for unfolding in unfoldings]
        fitted, error = _alternate(unfoldings, factors, total)
        if best is None or error < best[1]:
            best = fitted, error
        if error < 1e-6:
            break
    assert best is not None
    return [factor.to(weight.dtype) for factor in best[0]], best[1]


def _start(unfolding: torch.Tensor, rank: int, generator: torch.Generator, leading: bool) -> torch.Tensor:
    """A first factor (size, rank): singular vectors as far as there are some, then random columns; of length 1."""
    import torch

    size = unfolding.shape[0]
    random = torch.randn(size, rank, generator=generator, dtype=unfolding.dtype, device=unfolding.device)
    if leading:
        vectors = torch.linalg.eigh(unfolding @ unfolding.T).eigenvectors.flip(1)[:, :rank]
        random[:, : vectors.shape[1]] = vectors
    lengths: torch.Tensor = torch.linalg.vector_norm(random, dim=0)
    return random / lengths.clamp(min=1e-30)


def _alternate(
    unfoldings: list[torch.Tensor], factors: list[torch.Tensor], total: float
) -> tuple[list[torch.Tensor], float]:
    """Alternating least squares until it settles. Returns the factors with even lengths, and the relative error."""
    import torch

    lengths = torch.ones_like(factors[0][0])
    error, before = 1.0, 2.0
    for _ in range(ROUNDS):
        for mode, unfolding in enumerate(unfoldings):
            others = [factor for i, factor in enumerate(factors) if i != mode]
            products = _columns(others)
            normal = torch.stack([factor.T @ factor for factor in others]).prod(0)
            right = unfolding @ products
            ridge = RIDGE * normal.diagonal().mean()
            solved = torch.linalg.solve(normal + ridge * torch.eye(len(normal)).to(normal), right.T).T
            lengths = solved.norm(dim=0).clamp(min=1e-30)
            factors[mode] = solved / lengths
        scaled = factors[-1] * lengths
        square = total - 2 * float((scaled * right).sum()) + float((scaled.T @ scaled * normal).sum())
        error, before = (max(square, 0.0) / total) ** 0.5, error
        if before - error <= SETTLED * before:
            break
    even = lengths ** (1 / len(factors))
    return [factor * even for factor in factors], error


def _columns(factors: list[torch.Tensor]) -> torch.Tensor:
    """The Khatri-Rao product: column r is the Kronecker product of the factors' columns r."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product.unsqueeze(1) * factor.unsqueeze(0)).flatten(0, 1)
    return product
