"""What changes that put another module in a layer's place have in common: finding it, and what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wellfit.slim.changes.change import Unfit

if TYPE_CHECKING:
    from torch import nn


def layer_at(model: nn.Module, path: str, kinds: tuple[type[nn.Module], ...]) -> Any:
    """The layer with this name, if it is exactly of one of the kinds and nothing else holds on to it.

    Args:
        path: as in `model.named_modules()`.
        kinds: classes; a subclass may have a forward of its own, so it is none of them.

    Raises:
        Unfit: there is no such layer, or a module in its place would not do what it did.
    """
    if not path:
        raise Unfit("the model itself is the layer: put it into a Sequential")
    from wellfit.slim.changes._tree import module_of

    layer = module_of(model, path)
    if type(layer) not in kinds:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise Unfit(f"{path}: it is {type(layer).__name__}, not {wanted}")
    for reason in (_hooked(layer), _tied(model, layer), _odd(layer)):
        if reason:
            raise Unfit(f"{path}: {reason}")
    return layer


def swap(model: nn.Module, path: str, replacement: nn.Module) -> None:
    """Put a module in the place of a layer, wherever in the model that layer stands."""
    from wellfit.slim.changes._tree import module_of, put_module

    replacement.train(module_of(model, path).training)
    put_module(model, path, replacement)
    for parent in model.modules():
        if any(child is replacement for child in parent.children()):
            _leave_fast_path(parent)


def like(layer: nn.Module) -> dict[str, Any]:
    """Device and dtype of a layer's weight, for the modules that take its place."""
    weight: Any = layer.weight
    return {"device": weight.device, "dtype": weight.dtype}


def check_count(path: str, what: str, count: int, most: int) -> None:
    """Refuse a number outside 1 .. most: changes are read from files that anyone may have written.

    Raises:
        Unfit: it is outside.
    """
    if not 1 <= count <= most:
        raise Unfit(f"{path}: {what} must be from 1 to {most}, not {count}")


def _hooked(layer: nn.Module) -> str:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return "hooks are registered at it (weight_norm does that), which would be lost" if any(map(len, hooks)) else ""


def _tied(model: nn.Module, layer: nn.Module) -> str:
    mine = {id(parameter) for parameter in layer.parameters()}
    inside = set(layer.modules())
    for name, module in model.named_modules():
        if module not in inside and any(id(parameter) in mine for parameter in module._parameters.values()):
            return f"its weight is tied to that of {name or 'the model'}"
    return ""


def _odd(layer: nn.Module) -> str:
    for parameter in layer.parameters(recurse=False):
        if not parameter.is_floating_point():
            return f"its weights are {str(parameter.dtype).removeprefix('torch.')}, not real numbers"
    return ""


def _leave_fast_path(parent: Any) -> None:
    """An encoder layer of torch takes the weights of its linear layers into one fused operation at inference, and so
    past whatever stands in their place. This is the switch by which it leaves that to the modules."""
    from torch import nn

    if isinstance(parent, nn.TransformerEncoderLayer):
        parent.activation_relu_or_gelu = 0
