"""A batch norm folded into the layer before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wellfit.slim.changes.change import Change, Unfit

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Fold(Change):
    """The scale and shift of a batch norm, as in evaluation mode, become part of the weight and bias before it.

    With s = gamma / sqrt(var + eps): weight' = s weight, bias' = s (bias - mean) + beta (Jacob et al. 2018, section
    3.2). The norm becomes `nn.Identity`, the layer has a bias from then on.

    Args:
        layer: the name of a linear layer or convolution whose output goes to the norm and nowhere else.
        norm: the name of the batch norm.
    """

    name = "fold"

    layer: str
    norm: str

    def apply(self, model: nn.Module) -> None:
        """See `Change`."""
        import torch

        layer, norm = self._pair(model)
        if norm.running_mean is None or norm.running_var is None:
            raise Unfit(f"{self.norm} keeps no running statistics, so it depends on each batch")
        with torch.no_grad():
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            if norm.weight is not None:
                scale = scale * norm.weight.double()
            centred = (0 if layer.bias is None else layer.bias.double()) - norm.running_mean.double()
            shift = centred * scale + (0 if norm.bias is None else norm.bias.double())
            weight = _scaled(layer, scale)
        self._put(model, layer, weight, shift.to(layer.weight.dtype))

    def redo(self, model: nn.Module) -> None:
        """See `Change`."""
        layer, norm = self._pair(model)
        bias = layer.bias if layer.bias is not None else layer.weight.new_zeros(norm.num_features)
        self._put(model, layer, layer.weight, bias)

    def _put(self, model: nn.Module, layer: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
        from torch import nn

        from wellfit.slim.changes._tree import put_module

        trained = bool(layer.weight.requires_grad)
        layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trained)
        layer.register_parameter("bias", nn.Parameter(bias.detach().clone(), requires_grad=trained))
        put_module(model, self.norm, nn.Identity())

    def _pair(self, model: nn.Module) -> tuple[nn.Linear | nn.Conv2d, nn.BatchNorm2d]:
        """The layer and the norm.

        Raises:
            Unfit: they are of other kinds or sizes, or the layer's weight is used elsewhere too.
        """
        from torch import nn

        from wellfit.slim.changes._tree import holders_of, module_of

        layer, norm = module_of(model, self.layer), module_of(model, self.norm)
        if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            raise Unfit(f"{self.layer} is a {type(layer).__name__}, not a linear layer or convolution")
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise Unfit(f"{self.norm} is a {type(norm).__name__}, not a batch norm")
        outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        if outputs != norm.num_features:
            raise Unfit(f"{self.layer} has {outputs} outputs, {self.norm} is for {norm.num_features}")
        if any(len(list(holders_of(model, tensor))) > 1 for tensor in layer.parameters()):
            raise Unfit(f"a weight of {self.layer} is shared with another layer, which has no such norm after it")
        if layer.weight.is_complex():
            raise Unfit(f"{self.layer} has complex weights")
        return layer, norm  # type: ignore[return-value]


def _scaled(layer: nn.Module, scale: torch.Tensor) -> torch.Tensor:
    """The weight with each output scaled: [out, ...], or [in, out / groups, ...] where it is transposed."""
    from torch import nn

    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    wide = weight.double()
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return (wide * scale.reshape(-1, *[1] * (wide.dim() - 1))).to(weight.dtype)
    by_group = wide.reshape(layer.groups, -1, *wide.shape[1:])
    scales = scale.reshape(layer.groups, 1, -1, *[1] * (wide.dim() - 2))
    return (by_group * scales).reshape(wide.shape).to(weight.dtype)
