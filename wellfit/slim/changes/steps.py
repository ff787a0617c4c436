"""A truncated singular value decomposition of the recurrent weights of an LSTM or GRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._replacement import Replacement
from wellfit.slim.changes._swap import check_count, layer_at
from wellfit.slim.changes.change import Unfit
from wellfit.slim.changes.svd import factored, largest_rank

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Steps(Replacement):
    """The recurrent weights W_hh of all layers and directions of an LSTM or GRU become products of two factors.

    The layer then goes step by step in Python, not in torch's one fused operation: that pays where the product takes
    most of the time, from about 1000 hidden units on; measure it.

    Args:
        layer: as in `model.named_modules()`.
        rank: of each, less than `gates h / (gates + 1)` for h hidden units and 4 (LSTM) or 3 (GRU) gates.

    Source: Eckart and Young, 1936; Prabhavalkar et al., On the Compression of Recurrent Neural Networks with an
    Application to LVCSR Acoustic Modeling for Embedded Speech Recognition, 2016.
    """

    name: ClassVar[str] = "steps"
    rank: int

    def checked(self, model: nn.Module) -> Any:
        """See `Replacement.checked`."""
        from torch import nn

        old: Any = layer_at(model, self.layer, (nn.LSTM, nn.GRU))
        if old.proj_size:
            raise Unfit(f"{self.layer}: it has projections, so it is factored already")
        rows, columns = old.weight_hh_l0.shape
        most = largest_rank(rows, columns)
        if most < 1:
            raise Unfit(f"{self.layer}: no two factors are smaller than {rows} x {columns}")
        check_count(self.layer, f"the rank of a {rows} x {columns} matrix", self.rank, most)
        return old

    def _made(self, old: Any) -> Any:
        from wellfit.slim.layers.scanned import FactoredSteps

        return FactoredSteps(old, self.rank)

    def _fill(self, old: Any, new: Any) -> None:
        known = {name: parameter.detach() for name, parameter in old.named_parameters()}
        for name in [name for name in known if name.startswith("weight_hh")]:
            factors = factored(known[name], self.rank)
            known[name.replace("weight", "first")], known[name.replace("weight", "second")] = factors.a, factors.b
        for name, parameter in new.named_parameters():
            parameter.copy_(known[name])
