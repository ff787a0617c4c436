"""Datasets and samplers that overrides put in the place of the script's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import RandomSampler, Sampler, Subset


class Part(Subset[Any]):
    """Some items of a dataset; what else is asked of it (`classes`, say) the whole dataset answers."""

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class TrainingOrder(RandomSampler):
    """Another order in each epoch; the items' own while no gradients are taken, as tests may count on it."""

    def __iter__(self) -> Iterator[int]:
        return super().__iter__() if torch.is_grad_enabled() else iter(range(len(self.data_source)))


class LabelOrder(Sampler[int]):
    """Always the same order.

    Args:
        order: the numbers of the items.
    """

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
