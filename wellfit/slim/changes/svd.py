"""A truncated singular value decomposition in place of a linear, embedding, 1x1 convolution or recurrent layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, layer_at, like
from wellfit.slim.changes.change import Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn

EXACT = 1024
"""Up to this smaller side, singular values are computed in float64."""


class Factors(NamedTuple):
    """W ~ B A, the best of its rank (Eckart and Young 1936).

    Fields:
        a: (rank, inputs). b: (outputs, rank). Both hold the square roots of the singular values.
        error: |W - B A| / |W| (Frobenius), 0 for W = 0.
    """

    a: torch.Tensor
    b: torch.Tensor
    error: float


@dataclass(frozen=True)
class Svd(Replacement):
    """W (m x n) ~ B A with A (rank x n) and B (m x rank): `rank * (m + n)` numbers for `m * n`.

    - Linear -> two of them, the bias on the second.
    - Embedding -> a narrower one and a linear layer without bias.
    - Conv1d or Conv2d with a kernel of one place -> two of them; stride and padding on the first, bias on the second.
    - LSTM, GRU, RNN -> a linear layer that narrows its input, and the same with `rank` inputs: the input weights of its
      first layer (both directions together) are factored, the others are as they were.

    Args:
        layer: as in `model.named_modules()`.
        rank: fewer than `m * n / (m + n)`, else nothing is gained and the change is refused.

    Source: Eckart and Young, 1936; Denil et al., 2013; Denton et al., 2014.
    """

    name: ClassVar[str] = "svd"
    rank: int

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        from torch import nn

        kinds = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.LSTM, nn.GRU, nn.RNN)
        old: Any = layer_at(model, self.layer, kinds)
        _check_kind(self.layer, old)
        rows, columns = weight_of(old).shape
        most = largest_rank(rows, columns)
        if most < 1:
            raise Unfit(f"{self.layer}: no two factors are smaller than {rows} x {columns}")
        check_count(self.layer, f"the rank of a {rows} x {columns} matrix", self.rank, most)
        return old

    def _made(self, old: Any) -> nn.Module:
        """The new modules; their weights are still random."""
        from torch import nn

        if isinstance(old, nn.RNNBase):
            return _made_recurrent(old, self.rank)
        if isinstance(old, nn.Linear):
            return _made_linear(old, self.rank)
        if isinstance(old, nn.Embedding):
            return _made_embedding(old, self.rank)
        geometry = {name: getattr(old, name) for name in ("stride", "padding", "padding_mode")}
        first = type(old)(old.in_channels, self.rank, 1, bias=False, **geometry, **like(old))
        second = type(old)(self.rank, old.out_channels, 1, bias=old.bias is not None, **like(old))
        return nn.Sequential(first, second)

    def _fill(self, old: Any, new: Any) -> None:
        from torch import nn

        factors = factored(weight_of(old), self.rank)
        if isinstance(old, nn.RNNBase):
            new.narrow.weight.copy_(factors.a)
            known: dict[str, torch.Tensor] = dict(old.named_parameters())
            parts = factors.b.chunk(2 if old.bidirectional else 1)
            known |= dict(zip(("weight_ih_l0", "weight_ih_l0_reverse"), parts))
            for name, parameter in new.recurrent.named_parameters():
                parameter.copy_(known[name])
            return
        first, second = (factors.b, factors.a) if isinstance(old, nn.Embedding) else (factors.a, factors.b)
        if isinstance(old, nn.Embedding):
            second = second.T
        new[0].weight.copy_(first.reshape(new[0].weight.shape))
        new[1].weight.copy_(second.reshape(new[1].weight.shape))
        if getattr(old, "bias", None) is not None:
            new[1].bias.copy_(old.bias)


def largest_rank(rows: int, columns: int) -> int:
    """The largest rank whose two factors are smaller than the matrix: 0 if there is none."""
    return (rows * columns - 1) // (rows + columns)


def weight_of(layer: Any) -> torch.Tensor:
    """The matrix that is factored: (outputs, inputs), for an embedding (rows, width)."""
    import torch
    from torch import nn

    if isinstance(layer, nn.RNNBase):
        names = ["weight_ih_l0", "weight_ih_l0_reverse"][: 2 if layer.bidirectional else 1]
        return torch.cat([getattr(layer, name) for name in names]).detach()
    weight: torch.Tensor = layer.weight.detach()
    return weight.flatten(1)


def spectrum(matrix: torch.Tensor) -> torch.Tensor:
    """Singular values, the largest first: float64, (min(rows, columns),)."""
    import torch

    wide = matrix.detach().to(torch.float64 if min(matrix.shape) <= EXACT else torch.float32)
    values: torch.Tensor = torch.linalg.svdvals(wide)
    return values.double()


def factored(matrix: torch.Tensor, rank: int) -> Factors:
    """The best factors of a rank: U S^1/2 and S^1/2 V^T of W = U S V^T, cut off after `rank` values.

    Args:
        matrix: (outputs, inputs), real.
        rank: 1 .. min(outputs, inputs).

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    wide = matrix.detach().to(torch.float64 if min(matrix.shape) <= EXACT else torch.float32)
    if not bool(torch.isfinite(wide).all()):
        raise Unfit("the weights are not finite: train it anew")
    u, s, v = torch.linalg.svd(wide, full_matrices=False)
    root = s[:rank].sqrt()
    total = float(s.square().sum())
    error = (float(s[rank:].square().sum()) / total) ** 0.5 if total else 0.0
    return Factors((root[:, None] * v[:rank]).to(matrix.dtype), (u[:, :rank] * root).to(matrix.dtype), error)


def _check_kind(path: str, layer: Any) -> None:
    from torch import nn

    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        if any(size != 1 for size in layer.kernel_size):
            raise Unfit(f"{path}: its kernel has more than one place; use tucker or cp")
        if layer.groups != 1:
            raise Unfit(f"{path}: it has {layer.groups} groups, each of them small already")
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        raise Unfit(f"{path}: max_norm rescales its rows, which a product has not")
    if isinstance(layer, nn.RNNBase) and layer.proj_size:
        raise Unfit(f"{path}: it has projections, so it is factored already")


def _made_linear(old: nn.Linear, rank: int) -> nn.Module:
    from torch import nn

    from wellfit.slim.layers.factored import FactoredLinear

    first = nn.Linear(old.in_features, rank, bias=False, **like(old))
    return FactoredLinear(first, nn.Linear(rank, old.out_features, bias=old.bias is not None, **like(old)))


def _made_embedding(old: nn.Embedding, rank: int) -> nn.Module:
    from torch import nn

    from wellfit.slim.layers.factored import FactoredEmbedding

    same = {name: getattr(old, name) for name in ("padding_idx", "scale_grad_by_freq", "sparse")}
    first = nn.Embedding(old.num_embeddings, rank, **same, **like(old))
    return FactoredEmbedding(first, nn.Linear(rank, old.embedding_dim, bias=False, **like(old)))


def _made_recurrent(old: Any, rank: int) -> nn.Module:
    from torch import nn

    from wellfit.slim.layers.factored import FactoredRecurrent

    names = ["hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"]
    if type(old) is nn.RNN:
        names.append("nonlinearity")
    same = {name: getattr(old, name) for name in names}
    kind = {"device": old.weight_ih_l0.device, "dtype": old.weight_ih_l0.dtype}
    narrow = nn.Linear(old.input_size, rank, bias=False, **kind)
    return FactoredRecurrent(narrow, type(old)(input_size=rank, **same, **kind))
