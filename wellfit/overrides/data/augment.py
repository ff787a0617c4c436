"""Training data that is never twice the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.overrides.draws import Draws
from wellfit.overrides.inputs import InputOverride, is_taught
from wellfit.overrides.parameters import number, switch, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.program import Program

IMAGE_AXES = 4  # item, channel, row, column


@dataclass(kw_only=True, eq=False)
class Augment(InputOverride):
    """Training data that is never twice the same.

    What it changes: the first tensor that a model is given while it is in train mode and gradients are taken. With
    `flip` each image is mirrored left to right with probability 1/2; with `shift` each is moved by up to so many pixels
    in both directions, what is missing taken from the rim; with `noise` a normal number is added to every element, with
    a standard deviation of noise * (standard deviation of the batch). In this order, drawn anew at each call.

    When it helps: against overfitting: training loss falls, the loss on the test data rises.

    Safety: not safe; labels must not hang on what is changed. A mirrored 2 is no 2: flip is for photographs.

    Where it does not apply: to tokens and other whole numbers; flip and shift to input that is no batch of images
    (item, channel, row, column); to models that are fed by another one. Models whose input is also the target see the
    change in the input only, as a denoising autoencoder does.

    References: Bishop, Training with Noise is Equivalent to Tikhonov Regularization (1995); Krizhevsky et al., ImageNet
    Classification with Deep Convolutional Neural Networks (2012), section 4.1.
    """

    name = "augment"
    summary = "noise, flips and shifts of the model's input in training"
    example = "augment=0.1"
    safe = False
    misfit = "no model is given a tensor of data that this could change"
    rank = 26

    noise: float = number("standard deviation of the noise, as a share of the input's", low=0, default=0.0)
    flip: bool = switch("mirror images left to right", default=False)
    shift: int = whole("pixels that an image is moved by, at most", low=0, default=0)

    _draws: Draws = field(default_factory=Draws, init=False)

    def check(self) -> None:
        """See `Override`."""
        if not (self.noise or self.flip or self.shift):
            raise WellfitError("augment needs noise, flip or shift, as in --override augment=0.1,shift:2")

    def says(self, root: nn.Module, tensor: Tensor) -> str:
        """See `InputOverride`."""
        images = tensor.dim() == IMAGE_AXES
        said = ["mirrored with probability 1/2"] * (self.flip and images)
        said += [f"shifted by up to {self.shift} pixels"] * (self.shift > 0 and images)
        said += [f"noise of {self.noise:g} of its std"] * (self.noise > 0)
        if not images and (self.flip or self.shift):
            self.left_out("flip and shift", f"the input of {type(root).__name__} is no batch of images")
        return ", ".join(said) + ", in training"

    def unfit(self, root: nn.Module, tensor: Tensor) -> str | None:
        """See `InputOverride`."""
        fits = self.noise or tensor.dim() == IMAGE_AXES
        return None if fits else "its input is no batch of images (item, channel, row, column)"

    def replaced(self, program: Program, root: nn.Module, tensor: Tensor) -> Tensor:
        """See `InputOverride`."""
        import torch

        if not is_taught(root) or not tensor.is_floating_point():
            return tensor
        generator = self._draws.on(tensor.device)
        if tensor.dim() == IMAGE_AXES:
            if self.flip:
                mirrored = torch.rand(len(tensor), 1, 1, 1, generator=generator, device=tensor.device) < 0.5
                tensor = torch.where(mirrored, tensor.flip(3), tensor)
            if self.shift:
                tensor = _shifted(tensor, self.shift, generator)
        if self.noise:
            drawn = torch.randn(tensor.shape, generator=generator, device=tensor.device, dtype=tensor.dtype)
            tensor = tensor + drawn * (self.noise * tensor.detach().std(correction=0))
        return tensor


def _shifted(images: Tensor, most: int, generator: Any) -> Tensor:
    """Each image moved by its own whole numbers of rows and columns."""
    import torch

    count, _, height, width = images.shape
    by = torch.randint(-most, most + 1, (2, count, 1), generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) + by[0]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) + by[1]).clamp(0, width - 1)
    item = torch.arange(count, device=images.device).view(-1, 1, 1)
    return images[item, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
