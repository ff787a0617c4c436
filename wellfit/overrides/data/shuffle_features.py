"""Features that have lost their meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.overrides.draws import Draws
from wellfit.overrides.inputs import InputOverride
from wellfit.overrides.parameters import choice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.overrides.program import Program


@dataclass(kw_only=True, eq=False)
class ShuffleFeatures(InputOverride):
    """Features that have lost their meaning.

    What it changes: the first tensor that a model is given, in training and in evaluation; a feature is one position
    of it behind the first axis (a pixel, a column, a step of a sequence). `over:batch`: each feature is drawn anew
    among the items of the batch, by itself: its distribution stays, what it says about the label and about the other
    features is lost. `over:features`: the features change places, in one and the same way for all items and for the
    whole run: nothing is lost but neighbourhood. Where the number of features changes from call to call, each number
    has an order of its own, for all models.

    When it helps: `batch` as a baseline: a model that is no worse than that does not use its input. `features` to see
    whether a model lives on neighbourhood (a convolution should lose, a plain perceptron should not).

    Safety: not safe; the data are destroyed (`batch`) or rearranged (`features`).

    Where it does not apply: to loops that call no model, to inputs of one axis (single items); `batch` does nothing to
    a batch of one item.

    References: Breiman, Random Forests (2001), section 10, on permuted variables; Goodfellow et al., An Empirical
    Investigation of Catastrophic Forgetting (2013), on permuted pixels.
    """

    name = "shuffle-features"
    summary = "permute each feature over the batch, or the features among themselves"
    example = "shuffle-features=batch"
    safe = False
    rank = 27

    takes_whole: ClassVar[bool] = True

    over: str = choice(
        "batch: each feature among the items; features: the places of the features, once for all",
        ("batch", "features"),
        default="batch",
    )

    _draws: Draws = field(default_factory=Draws, init=False)
    _orders: dict[tuple[int, Any], Tensor] = field(default_factory=dict, init=False)

    def says(self, root: nn.Module, tensor: Tensor) -> str:
        """See `InputOverride`."""
        count = tensor[0].numel()
        if self.over == "batch":
            return f"each of {count} features permuted over the batch"
        return f"its {count} features in another order"

    def unfit(self, root: nn.Module, tensor: Tensor) -> str | None:
        """See `InputOverride`."""
        return "it is given single items, no batches" if tensor.dim() < 2 else None

    def replaced(self, program: Program, root: nn.Module, tensor: Tensor) -> Tensor:
        """See `InputOverride`."""
        import torch

        if tensor.dim() < 2:
            return tensor
        flat = tensor.reshape(len(tensor), -1)
        generator = self._draws.on(tensor.device)
        if self.over == "batch":
            order = torch.rand(flat.shape, generator=generator, device=tensor.device).argsort(0)
            return flat.gather(0, order).view(tensor.shape)
        key = flat.shape[1], tensor.device
        if key not in self._orders:
            self._orders[key] = torch.randperm(flat.shape[1], generator=generator, device=tensor.device)
        return flat[:, self._orders[key]].view(tensor.shape)
