"""Input of mean 0 and standard deviation 1."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.overrides.inputs import InputOverride
from wellfit.overrides.parameters import whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.program import Program

_FEATURE_AXES = {"Conv1d": -2, "Conv2d": -3, "Conv3d": -4}


class Moments:
    """Mean and variance of each feature over the batches so far.

    Args:
        axis: of the features, from the end; None if all numbers are one feature.

    Attributes:
        batches: how many of them were counted while gradients were taken.
    """

    def __init__(self, axis: int | None) -> None:
        self.axis = axis
        self.batches = 0
        self._count = 0
        self._mean: Any = 0.0
        self._squares: Any = 0.0  # sum of squared distances to the mean

    def add(self, tensor: Tensor) -> None:
        """Count a batch (Chan's update of mean and squared distances)."""
        import torch

        if self.axis is None:
            values = tensor.detach().reshape(-1, 1).to(torch.float64)
        else:
            values = tensor.detach().movedim(self.axis, -1).reshape(-1, tensor.shape[self.axis]).to(torch.float64)
        mean = values.mean(0)
        squares = (values - mean).square().sum(0)
        total = self._count + len(values)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart.square() * (self._count * len(values) / total)
        self._mean = self._mean + apart * (len(values) / total)
        self._count = total

    @property
    def empty(self) -> bool:
        """Whether nothing was counted yet."""
        return self._count == 0

    def fits(self, tensor: Tensor) -> bool:
        """Whether a tensor has as many features."""
        return self.axis is None or (tensor.dim() >= -self.axis and tensor.shape[self.axis] == len(self._mean))

    def normalized(self, tensor: Tensor) -> Tensor:
        """(tensor - mean) / std; a feature that was constant so far is only centred."""
        mean, std = self.statistics()
        shape = [] if self.axis is None else [-1] + [1] * (-self.axis - 1)
        return (tensor - mean.to(tensor).view(shape)) / std.to(tensor).view(shape)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1 where a feature was constant) of each feature."""
        std = (self._squares / self._count).sqrt()
        return self._mean, std.masked_fill(std <= 1e-6 * self._mean.abs() + 1e-12, 1.0)


@dataclass(kw_only=True, eq=False)
class NormalizeInput(InputOverride):
    """Input of mean 0 and standard deviation 1.

    What it changes: the first tensor x that a model is given becomes (x - mean) / std, in training and in evaluation,
    with mean and standard deviation of each feature. They are counted over the first `count` calls with gradients
    (and over the very first call, whatever it is), together, and stay from then on. The features are the channels where
    the model begins with a convolution or the input has four axes or more (axis 1 of a batch), else the last axis; an
    input of one axis is one feature of all items, unless it is a single item with as many numbers as the model's first
    layer takes. A feature that was constant so far is only centred. A model and its copies share them.

    When it helps: where wellfit finds input-scale: raw pixels from 0 to 255, columns of very different size. Gradients
    of the first layer have the size of its input, so one learning rate fits no two columns.

    Safety: not safe; weights that the script saves want normalised input, and loss terms that compare with the input
    see the true one.

    Where it does not apply: to tokens and other whole numbers, to models fed by another model.

    References: LeCun et al., Efficient BackProp (1998), section 4.3.
    """

    name = "normalize-input"
    summary = "bring each feature of the model's input to mean 0 and standard deviation 1"
    example = "normalize-input"
    safe = False
    rank = 25

    count: int = whole("batches that mean and standard deviation are counted over", default=10)

    _moments: dict[Any, Moments] = field(default_factory=dict, init=False)
    _kinds: weakref.WeakKeyDictionary[Any, Any] = field(default_factory=weakref.WeakKeyDictionary, init=False)

    def says(self, root: nn.Module, tensor: Tensor) -> str:
        """See `InputOverride`."""
        moments = Moments(_feature_axis(root, tensor))
        moments.add(tensor)
        mean, std = moments.statistics()
        if len(mean) == 1:
            return f"mean 0 and std 1 (were {float(mean):.3g} and {float(std):.3g})"
        return (
            f"mean 0 and std 1 for each of {len(mean)} {'features' if moments.axis == -1 else 'channels'} (were "
            f"{float(mean.min()):.3g} to {float(mean.max()):.3g} and {float(std.min()):.3g} to {float(std.max()):.3g})"
        )

    def replaced(self, program: Program, root: nn.Module, tensor: Tensor) -> Tensor:
        """See `InputOverride`."""
        import torch

        kind = self._kinds.get(root)
        if kind is None:  # a copy (a target network, an average of weights) must see what the model sees
            shapes = tuple((name, tuple(parameter.shape)) for name, parameter in root.named_parameters())
            kind = self._kinds[root] = (type(root), shapes)
        moments = self._moments.get(kind)
        if moments is None:
            moments = self._moments[kind] = Moments(_feature_axis(root, tensor))
        elif not moments.fits(tensor):
            return tensor
        if moments.empty or (moments.batches < self.count and torch.is_grad_enabled()):
            moments.add(tensor)
            moments.batches += torch.is_grad_enabled()
        return moments.normalized(tensor)


def _feature_axis(root: nn.Module, tensor: Tensor) -> int | None:
    """The axis of the features, from the end; None if there is none."""
    known = (*_FEATURE_AXES, "Linear", "Embedding", "RNN", "LSTM", "GRU")
    first = next((module for module in root.modules() if type(module).__name__ in known), None)
    if tensor.dim() < 2:
        takes = getattr(first, "in_features", getattr(first, "input_size", None))
        return -1 if tensor.dim() == 1 and takes == len(tensor) else None
    axis = _FEATURE_AXES.get(type(first).__name__)
    if axis is not None and tensor.dim() >= -axis:
        return axis
    return {4: -3, 5: -4}.get(tensor.dim(), -1)
