"""A group convolution with a channel shuffle in place of a convolution: 1/g of its weights and operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._convs import conv_at, finite, geometry
from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, like
from wellfit.slim.changes.change import Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Grouped(Replacement):
    """A Conv1d or Conv2d (T outputs, S inputs, kernel of k places) becomes one with g groups, `k S T / g` weights,
    whose outputs are then put into another order, so that neighbouring channels come from all groups.

    Which outputs share a group is read off the trained weights: each goes to the group of inputs that holds most of its
    energy, as far as there is room. The shuffle puts them back into their old places, so the layers behind it stay as
    they are. The rest of the weights is lost: it needs distillation afterwards.

    Args:
        layer: as in `model.named_modules()`.
        groups: g > 1; divides S and T.

    Source: Zhang et al., ShuffleNet, 2017 (with one fixed shuffle); groups read off the weights: Huang et al.,
    CondenseNet, 2017.
    """

    name: ClassVar[str] = "grouped"
    needs: ClassVar[str] = "distillation from the model as it was"
    groups: int

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        old = conv_at(model, self.layer, pointwise_fits=True)
        check_count(self.layer, "groups", self.groups, min(old.in_channels, old.out_channels))
        if self.groups < 2 or old.in_channels % self.groups or old.out_channels % self.groups:
            sizes = f"{old.in_channels} inputs and {old.out_channels} outputs"
            raise Unfit(f"{self.layer}: {self.groups} groups do not divide {sizes} into smaller parts")
        return old

    def _made(self, old: Any) -> Any:
        from wellfit.slim.layers.shuffled import ShuffledConv

        conv = type(old)(
            old.in_channels,
            old.out_channels,
            groups=self.groups,
            bias=old.bias is not None,
            **geometry(old),
            **like(old),
        )
        return ShuffledConv(conv)

    def _fill(self, old: Any, new: Any) -> None:
        weight, order, _ = assigned(old.weight, self.groups)
        new.conv.weight.copy_(weight)
        new.order.copy_(order)
        if old.bias is not None:
            new.conv.bias[order] = old.bias


def assigned(weight: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Which output goes to which group, and the weights that stay.

    The pairs (output, group) are gone through from the one that holds the largest share of its output's energy
    downwards; an output takes the group if it has none yet and there is room.

    Args:
        weight: (outputs, inputs, *kernel), real; groups divide outputs and inputs.

    Returns:
        weight (outputs, inputs / groups, *kernel) in the order of groups; order (outputs,), the channel of the grouped
        convolution that holds each output; and |K - K'| / |K|.

    Raises:
        Unfit: the weights are not finite.
    """
    import torch

    outputs, inputs = weight.shape[:2]
    energy = finite(weight).flatten(2).square().sum(-1).reshape(outputs, groups, -1).sum(-1)
    share = energy / energy.sum(1, keepdim=True).clamp(min=1e-300)
    room, group_of = [outputs // groups] * groups, [-1] * outputs
    for pair in share.flatten().argsort(descending=True, stable=True).tolist():
        output, group = divmod(pair, groups)
        if group_of[output] < 0 and room[group]:
            group_of[output] = group
            room[group] -= 1
    members = torch.tensor(group_of, device=weight.device).argsort(stable=True)
    kept = weight.detach()[members].reshape(groups, outputs // groups, groups, inputs // groups, *weight.shape[2:])
    diagonal = torch.arange(groups, device=weight.device)
    small = kept[diagonal, :, diagonal].reshape(outputs, inputs // groups, *weight.shape[2:])
    total = float(energy.sum())
    lost = total - float(small.double().square().sum())
    return small, members.argsort(), (max(lost, 0.0) / total) ** 0.5 if total else 0.0
