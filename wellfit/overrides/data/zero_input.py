"""A model that is given nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from wellfit.overrides.inputs import InputOverride

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ZeroInput(InputOverride):
    """A model that is given nothing.

    What it changes: every element of the first tensor that a model is given is 0, in training and in evaluation; of
    tokens, each is token 0. The gradient for that tensor, where the script takes one, is 0 too.

    When it helps: as a baseline. What a model reaches without its input it owes to the labels alone: a classifier the
    entropy of the classes, a regression their variance. A model with its input must be better; where it is not, the
    input does not reach it.

    Safety: not safe; nothing of use is learned.

    Where it does not apply: to loops that call no model, or one that is not given a tensor; other arguments (states,
    masks) stay. Loss terms that compare with the input see the true one.

    References: Karpathy, A Recipe for Training Neural Networks (2019), "input-independent baseline".
    """

    name = "zero-input"
    summary = "give the model zeros instead of data: what it learns without its input"
    example = "zero-input"
    safe = False
    conflicts = ("normalize-input", "scale-input", "shuffle-features")
    rank = 22

    takes_whole: ClassVar[bool] = True

    def says(self, root: nn.Module, tensor: Tensor) -> str:
        """See `InputOverride`."""
        return "zeros"

    def replaced(self, program: Program, root: nn.Module, tensor: Tensor) -> Tensor:
        """See `InputOverride`."""
        import torch

        if not tensor.requires_grad:
            return torch.zeros_like(tensor)
        # The script takes the gradient for its input (a penalty on it): that is 0, but there must be one.
        return torch.where(torch.zeros_like(tensor, dtype=torch.bool), tensor, 0)
