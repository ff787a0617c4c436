"""What a model is called with in measurements and checks: an example, in batches of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from wellfit.errors import WellfitError


@dataclass(frozen=True)
class Inputs:
    """The arguments of a call; tensors may lie in lists, tuples and dictionaries.

    Args:
        args: arguments by place.
        kwargs: arguments by name.
        batch_axis: where the samples of a batch lie; 1 for models that take [time, batch, ...].
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    batch_axis: int = 0

    @classmethod
    def of(cls, example: Any) -> Inputs:
        """An example as a script would hand it over: one tensor, a tuple of arguments, or a dictionary by name."""
        if isinstance(example, cls):
            return example
        if isinstance(example, Mapping):
            return cls((), dict(example))
        return cls(tuple(example) if isinstance(example, (tuple, list)) else (example,))

    def call(self, model: nn.Module) -> Any:
        """What the model returns for them."""
        return model(*self.args, **self.kwargs)

    def to(self, device: torch.device | str) -> Inputs:
        """The same on another device."""
        return self._mapped(lambda tensor: tensor.to(device))

    def copied(self) -> Inputs:
        """The same in tensors of their own: a model may change what it is given."""
        return self._mapped(lambda tensor: tensor.detach().clone())

    @property
    def batch(self) -> int:
        """How many samples there are: by the first tensor that has a batch axis.

        Raises:
            WellfitError: no tensor has one.
        """
        found: list[int] = []

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dim() > self.batch_axis:
                found.append(tensor.shape[self.batch_axis])
            return tensor

        self._mapped(note)
        if not found:
            raise WellfitError(
                f"the example inputs hold no tensor with an axis {self.batch_axis} for the batch; "
                "give one as the model gets it"
            )
        return found[0]

    def resized(self, batch: int) -> Inputs:
        """The same with another number of samples: the first ones, or all of them over and over.

        Tensors whose batch axis has another size than the first one's (masks, tables) stay.

        Raises:
            WellfitError: no tensor has a batch axis, or it is empty.
        """
        count = self.batch
        if count == 0:
            raise WellfitError("the example inputs hold no sample; give at least one")

        def fitted(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dim() <= self.batch_axis or tensor.shape[self.batch_axis] != count:
                return tensor
            order = torch.arange(batch, device=tensor.device) % count
            return tensor.index_select(self.batch_axis, order)

        return self._mapped(fitted)

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        return Inputs(_mapped(self.args, change), _mapped(dict(self.kwargs), change), self.batch_axis)


def _mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value
