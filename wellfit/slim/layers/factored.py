"""A layer as a product of smaller ones."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

State = torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None
Steps = TypeVar("Steps", torch.Tensor, PackedSequence)


class FactoredLinear(nn.Sequential):
    """Two linear layers for one: `y = B (A x) + b`. `weight` and `bias` give those of the layer that they stand for,
    for code that looks at them; assigning to them is not possible."""

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__(first, second)

    @property
    def in_features(self) -> int:
        return cast(nn.Linear, self[0]).in_features

    @property
    def out_features(self) -> int:
        return cast(nn.Linear, self[1]).out_features

    @property
    def weight(self) -> torch.Tensor:
        """B A: (out_features, in_features)."""
        return cast(nn.Linear, self[1]).weight @ cast(nn.Linear, self[0]).weight

    @property
    def bias(self) -> torch.Tensor | None:
        return cast("torch.Tensor | None", self[1].bias)


class FactoredEmbedding(nn.Sequential):
    """A narrow embedding and a linear layer for one embedding: row i is `B a_i`."""

    def __init__(self, first: nn.Embedding, second: nn.Linear) -> None:
        super().__init__(first, second)

    @property
    def num_embeddings(self) -> int:
        return cast(nn.Embedding, self[0]).num_embeddings

    @property
    def embedding_dim(self) -> int:
        return cast(nn.Linear, self[1]).out_features

    @property
    def weight(self) -> torch.Tensor:
        """All rows: (num_embeddings, embedding_dim)."""
        return cast(nn.Embedding, self[0]).weight @ cast(nn.Linear, self[1]).weight.T


class FactoredRecurrent(nn.Module):
    """A recurrent layer behind a linear one that narrows its input. What it returns is the recurrent layer's."""

    def __init__(self, narrow: nn.Linear, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.narrow, self.recurrent = narrow, recurrent

    @property
    def hidden_size(self) -> int:
        return self.recurrent.hidden_size

    @property
    def num_layers(self) -> int:
        return self.recurrent.num_layers

    @property
    def bidirectional(self) -> bool:
        return self.recurrent.bidirectional

    def flatten_parameters(self) -> None:
        """As of the recurrent layer."""
        self.recurrent.flatten_parameters()

    def forward(self, steps: Steps, state: State = None) -> tuple[Steps, State]:
        """As of the recurrent layer; `steps` may be packed."""
        if isinstance(steps, PackedSequence):
            narrowed = steps._replace(data=self.narrow(steps.data))
            return cast("tuple[Steps, State]", self.recurrent(narrowed, state))
        return cast("tuple[Steps, State]", self.recurrent(self.narrow(steps), state))
