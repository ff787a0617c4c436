"""A Tucker-2 decomposition in place of a convolution: 1x1, a narrow core, 1x1."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from wellfit.slim.changes._convs import check_smaller, conv_at, fill, finite, geometry, pointwise
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, like

if TYPE_CHECKING:
    import torch
    from torch import nn

ROUNDS = 50
SETTLED = 1e-7
"""Alternating stops where the kept energy grows by less than this share."""


class Tucker2(NamedTuple):
    """K[t, s, ...] ~ sum over p, q of C[p, q, ...] O[t, p] I[s, q].

    Fields:
        inputs: I, (channels in, rank in), orthonormal columns.
        core: C, (rank out, rank in, *kernel).
        outputs: O, (channels out, rank out), orthonormal columns.
        error: |K - K'| / |K| (Frobenius).
    """

    inputs: torch.Tensor
    core: torch.Tensor
    outputs: torch.Tensor
    error: float


@dataclass(frozen=True)
class Tucker(Replacement):
    """A Conv1d or Conv2d (T outputs, S inputs, kernel of k places) becomes three convolutions:

        1x1: S -> rank_in;  kernel of k places: rank_in -> rank_out;  1x1: rank_out -> T with the bias

    with `S rank_in + k rank_in rank_out + rank_out T` weights for `k S T`. Stride, padding and dilation are the core's.

    Args:
        layer: as in `model.named_modules()`.
        rank_in, rank_out: channels between; refused where the three together are not smaller.

    Source: Kim et al., Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications,
    2015 (section 3.2, without the variational choice of ranks); De Lathauwer et al., 2000 (HOOI).
    """

    name: ClassVar[str] = "tucker"
    rank_in: int
    rank_out: int

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        old = conv_at(model, self.layer)
        check_count(self.layer, "rank_in", self.rank_in, old.in_channels)
        check_count(self.layer, "rank_out", self.rank_out, old.out_channels)
        check_smaller(self.layer, old, tucker_parameters(old.weight.shape, self.rank_in, self.rank_out))
        return old

    def _made(self, old: Any) -> Any:
        from torch import nn

        core = type(old)(self.rank_in, self.rank_out, bias=False, **geometry(old), **like(old))
        last = pointwise(old, self.rank_out, old.out_channels, bias=old.bias is not None)
        return nn.Sequential(pointwise(old, old.in_channels, self.rank_in), core, last)

    def _fill(self, old: Any, new: Any) -> None:
        parts = tucker2(old.weight, self.rank_in, self.rank_out)
        fill(new, [parts.inputs.T, parts.core, parts.outputs], old.bias)


def tucker_parameters(shape: tuple[int, ...], rank_in: int, rank_out: int) -> int:
    """Weights of the three convolutions that stand for one of this shape (outputs, inputs, *kernel)."""
    return shape[1] * rank_in + prod(shape[2:]) * rank_in * rank_out + rank_out * shape[0]


def tucker2(weight: torch.Tensor, rank_in: int, rank_out: int) -> Tucker2:
    """Tucker-2 by alternating least squares (higher-order orthogonal iteration) from the truncated HOSVD.

    Each round takes, for one of the two modes, the leading singular vectors of the kernel as the other's factor leaves
    it: the best choice for this mode. The kept energy |C|^2 never falls.

    Args:
        weight: (outputs, inputs, *kernel), real.
        rank_in: 1 .. inputs. rank_out: 1 .. outputs.

    Raises:
        Unfit: the weights are not finite.
    """
    kernel = finite(weight).flatten(2)
    inputs = _leading(kernel.transpose(0, 1).flatten(1), rank_in)
    kept = -1.0
    for _ in range(ROUNDS):
        outputs = _leading(_project(kernel, inputs, 1).flatten(1), rank_out)
        inputs = _leading(_project(kernel, outputs, 0).transpose(0, 1).flatten(1), rank_in)
        core = _project(_project(kernel, outputs, 0), inputs, 1)
        before, kept = kept, float(core.square().sum())
        if kept - before <= SETTLED * kept:
            break
    total = float(kernel.square().sum())
    error = (max(total - kept, 0.0) / total) ** 0.5 if total else 0.0
    shaped = core.reshape(rank_out, rank_in, *weight.shape[2:])
    return Tucker2(inputs.to(weight.dtype), shaped.to(weight.dtype), outputs.to(weight.dtype), error)


def mode_spectra(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values of the unfoldings over inputs and over outputs, the largest first: two float64 tensors."""
    kernel = finite(weight).flatten(2)
    return _values(kernel.transpose(0, 1).flatten(1)), _values(kernel.flatten(1))


def _leading(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The leading left singular vectors: by the eigenvectors of the (small) Gram matrix."""
    import torch

    vectors: torch.Tensor = torch.linalg.eigh(matrix @ matrix.T).eigenvectors
    return vectors.flip(1)[:, :rank].contiguous()


def _values(matrix: torch.Tensor) -> torch.Tensor:
    import torch

    values: torch.Tensor = torch.linalg.eigvalsh(matrix @ matrix.T)
    return values.clamp(min=0).sqrt().flip(0)


def _project(kernel: torch.Tensor, factor: torch.Tensor, mode: int) -> torch.Tensor:
    """The kernel (outputs, inputs, places) with one of its modes in the coordinates of a factor."""
    import torch

    return torch.einsum("tsk,tp->psk" if mode == 0 else "tsk,sq->tqk", kernel, factor)
