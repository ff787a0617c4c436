"""Heads taken out of attention of torch's own kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.slim.changes.change import Change, Unfit
from wellfit.slim.changes.cut import Cut, Slice

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Heads(Change):
    """Some heads of a `nn.MultiheadAttention` are kept, the others are gone, with what they read and write.

    Args:
        layer: its name.
        heads: how many it has before.
        kept: the numbers of those that are kept, rising.
    """

    name = "heads"

    layer: str
    heads: int
    kept: tuple[int, ...]

    def apply(self, model: nn.Module) -> None:
        """See `Change`."""
        self._cut(model).apply(model)

    def redo(self, model: nn.Module) -> None:
        """See `Change`."""
        self._cut(model).redo(model)

    def _cut(self, model: nn.Module) -> Cut:
        """The same as a cut of tensors.

        Raises:
            Unfit: the layer is no attention, or has other heads.
        """
        from torch import nn

        from wellfit.slim.changes._attention import SlimAttention
        from wellfit.slim.changes._tree import module_of

        module = module_of(model, self.layer)
        if not isinstance(module, (nn.MultiheadAttention, SlimAttention)):
            raise Unfit(f"{self.layer} is a {type(module).__name__}, not attention of torch's own kind")
        if module.num_heads != self.heads or not self.kept or not 0 <= max(self.kept) < self.heads:
            raise Unfit(f"{self.layer} has {module.num_heads} heads, of which {list(self.kept)} cannot be kept")
        width = module.out_proj.in_features // self.heads
        rows = tuple(head * width + place for head in self.kept for place in range(width))
        whole = self.heads * width
        thrice = tuple(part * whole + row for part in range(3) for row in rows)
        path = f"{self.layer}." if self.layer else ""
        slices: list[Slice] = [(f"{path}out_proj.weight", 1, rows)]
        if module.in_proj_bias is not None:
            slices.append((f"{path}in_proj_bias", 0, thrice))
        if module.in_proj_weight is not None:
            slices.append((f"{path}in_proj_weight", 0, thrice))
        else:
            slices += [(f"{path}{part}_proj_weight", 0, rows) for part in "qkv"]
        return Cut(tuple(slices), ((self.layer, "num_heads", len(self.kept)),))
