"""Quantisation by torchao (`pip install wellfit[quant]`), with the state in plain tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from wellfit.slim.changes._swap import layer_at, swap
from wellfit.slim.changes.change import Change, Unfit

if TYPE_CHECKING:
    from torch import nn

CONFIGS = {
    "torchao-int8-weights": "Int8WeightOnlyConfig",
    "torchao-int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
    "torchao-fp8-weights": "Float8WeightOnlyConfig",
    "torchao-fp8-dynamic": "Float8DynamicActivationFloat8WeightConfig",
    "torchao-int4-weights": "Int4WeightOnlyConfig",
}


@dataclass(frozen=True)
class Torchao(Change):
    """A Linear whose weight is one of torchao's tensors. Such a tensor consists of plain ones, and those are the state:
    so any file can hold it.

    What torchao leaves as it is without a word (an int4 weight whose width is no multiple of 128, for one) is refused.

    Args:
        layer: as in `model.named_modules()`.
        config: "torchao-int8-weights", "torchao-int8-dynamic", "torchao-fp8-weights", "torchao-fp8-dynamic" or
            "torchao-int4-weights".
    """

    name: ClassVar[str] = "torchao"
    layer: str
    config: str

    def apply(self, model: nn.Module) -> None:
        """See `Change.apply`."""
        swap(model, self.layer, self._made(model))

    def redo(self, model: nn.Module) -> None:
        """See `Change.redo`."""
        self.apply(model)  # which parts there are, and of which shapes, only torchao knows

    def checked(self, model: nn.Module) -> Any:
        """The layer, which stays as it is.

        Raises:
            Unfit: the change does not fit it, or torchao is not there.
        """
        from torch import nn

        self._torchao()
        return layer_at(model, self.layer, (nn.Linear,))

    def _made(self, model: nn.Module) -> nn.Module:
        import copy

        from torch import nn

        from wellfit.slim.layers.flattened import FlattenedLinear

        old = self.checked(model)
        quantize, config = self._torchao()
        holder = nn.Sequential(copy.deepcopy(old))
        before = type(old.weight)
        try:
            quantize(holder, config())
        except Exception as error:
            line = str(error).strip().splitlines()[:1]
            raise Unfit(f"{self.layer}: torchao fails: {type(error).__name__}: {''.join(line)[:200]}") from error
        weight: Any = holder[0].weight
        if type(weight) is before or not hasattr(weight, "__tensor_flatten__"):
            raise Unfit(f"{self.layer}: torchao left it as it was, and did not say so")
        return FlattenedLinear(weight.detach(), old)

    def _torchao(self) -> tuple[Any, Any]:
        if self.config not in CONFIGS:
            raise Unfit(f'{self.layer}: there is no config "{self.config[:40]}"; there are {", ".join(CONFIGS)}')
        try:
            from torchao import quantization
        except ImportError as error:
            raise Unfit(f"{self.layer}: torchao is not installed: pip install wellfit[quant]") from error
        found = getattr(quantization, CONFIGS[self.config], None)
        if found is None:
            raise Unfit(f"{self.layer}: this version of torchao has no {CONFIGS[self.config]}")
        return quantization.quantize_, found
