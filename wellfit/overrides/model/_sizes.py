"""Layers that get other sizes and stay the same objects, and so do their parameters where that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError

if TYPE_CHECKING:
    from torch import nn

# What of a layer says its sizes: (outputs, inputs).
_SIZES = (("out_features", "in_features"), ("out_channels", "in_channels"), ("hidden_size", "input_size"))
_NORM_SIZES = ("num_features", "num_channels", "normalized_shape", "num_parameters")


class Rebuilt:
    """Gives layers other sizes, and can put everything back."""

    def __init__(self) -> None:
        # layer, its attributes, and by name each tensor, what it held and its gradient
        self._before: list[tuple[Any, dict[str, Any], dict[str, tuple[Any, Any, Any]]]] = []

    def layer(self, layer: nn.Module, outputs: int | None, more_inputs: int) -> None:
        """Another number of outputs, or of inputs, or both; the parameters are drawn anew by the layer's own rule.

        Args:
            outputs: None to keep them.
            more_inputs: to be added to the inputs there are (or to the channels of a norm).

        Raises:
            WellfitError: it keeps other parameters than torch's layer of its kind.
        """
        tensors = {**layer._parameters, **layer._buffers}
        held = {name: (value, value.data, value.grad) for name, value in tensors.items() if value is not None}
        new = _twin(layer, _sizes(layer, outputs, more_inputs))
        if not {**new._parameters, **new._buffers}.keys() <= tensors.keys():
            raise WellfitError(f"a {type(layer).__name__} keeps its weights in a way of its own")
        self._before.append((layer, dict(vars(layer)), held))
        for name, value in {**new._parameters, **new._buffers}.items():
            old = tensors[name]
            if value is not None and old is not None:
                give(layer, name, old, value.data.to(old.device, old.dtype))
        for name in (*(pair for names in _SIZES for pair in names), *_NORM_SIZES):
            if name in vars(new):
                setattr(layer, name, getattr(new, name))
        if hasattr(layer, "flatten_parameters"):
            layer.flatten_parameters()  # type: ignore[operator]

    def undo(self) -> None:
        """Put everything back."""
        for layer, attributes, tensors in reversed(self._before):
            for name, (tensor, data, gradient) in tensors.items():
                tensor.data = data
                tensor.grad = gradient
                setattr(layer, name, tensor)
            vars(layer).update(attributes)


def give(layer: Any, name: str, old: Any, data: Any) -> None:
    """Other contents for a parameter or buffer: in the same object, as the script may hold it in a list of its own."""
    import torch
    from torch import nn

    old.data = data
    if isinstance(old, nn.Parameter):
        old.grad = None
        if old.requires_grad:
            with torch.enable_grad():
                view: Any = old.view_as(old)
                node = view.grad_fn.next_functions[0][0]
            # A graph of the script's that is still alive has a node for it that expects its size of before.
            if node._input_metadata[0].shape != data.shape:
                setattr(layer, name, nn.Parameter(data))


def _sizes(layer: Any, outputs: int | None, more_inputs: int) -> dict[str, Any]:
    for out, into in _SIZES:
        if hasattr(layer, out) and hasattr(layer, into):
            return {out: outputs or getattr(layer, out), into: getattr(layer, into) + more_inputs}
    for name in _NORM_SIZES:
        size = getattr(layer, name, None)
        if size is not None and size != 1:
            return {name: size[0] + more_inputs if isinstance(size, tuple) else size + more_inputs}
    return {}


def _twin(layer: Any, sizes: dict[str, Any]) -> Any:
    """A new layer of the same kind with these sizes, on the CPU: the generators of other devices are the script's."""
    from torch import nn

    bias = getattr(layer, "bias", None)
    if isinstance(layer, nn.Linear):
        return nn.Linear(sizes["in_features"], sizes["out_features"], bias is not None)
    kind: Any
    if isinstance(layer, nn.modules.conv._ConvNd):
        kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        kind = next(kind for kind in kinds if isinstance(layer, kind))
        more = {"output_padding": layer.output_padding} if layer.transposed else {}
        return kind(
            sizes["in_channels"], sizes["out_channels"], layer.kernel_size, layer.stride, layer.padding,
            dilation=layer.dilation, bias=bias is not None, padding_mode=layer.padding_mode, **more,
        )  # fmt: skip
    if isinstance(layer, nn.RNNBase):  # torch's own class: one of the script's may be made in another way
        kind = next(kind for kind in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(layer, kind))
        return kind(
            sizes["input_size"], sizes["hidden_size"], layer.num_layers, bias=layer.bias,
            bidirectional=layer.bidirectional,
        )  # fmt: skip
    if isinstance(layer, nn.RNNCellBase):
        kind = next(kind for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell) if isinstance(layer, kind))
        return kind(sizes["input_size"], sizes["hidden_size"], bias=layer.bias)
    return _twin_norm(layer, next(iter(sizes.values()), 1))


def _twin_norm(layer: Any, size: Any) -> Any:
    from torch import nn

    if isinstance(layer, nn.PReLU):
        return nn.PReLU(size, float(layer.weight.detach().flatten()[0]))
    if isinstance(layer, nn.GroupNorm):
        return nn.GroupNorm(layer.num_groups, size, affine=layer.affine)
    if isinstance(layer, nn.LayerNorm):
        return nn.LayerNorm(size, elementwise_affine=layer.elementwise_affine, bias=layer.bias is not None)
    if isinstance(layer, nn.RMSNorm):
        return nn.RMSNorm(size, elementwise_affine=layer.elementwise_affine)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    kind: Any = next((kind for kind in kinds if isinstance(layer, kind)), None)
    if kind is None:
        return nn.Identity()
    return kind(size, affine=layer.affine, track_running_stats=layer.track_running_stats)
