"""What is done around a layer of the user's: hooks that are copied and saved with the model, as classes of a module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Normalise:
    """A forward hook: what the layer gives goes through a norm that the layer holds.

    Args:
        name: the norm's name in the layer.
        channels_last: the layer's channels are on the last axis (a linear layer), not on axis 1.
    """

    def __init__(self, name: str, channels_last: bool) -> None:
        self.name = name
        self.channels_last = channels_last

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        norm = getattr(module, self.name)
        if not isinstance(norm, nn.modules.batchnorm._NormBase):
            return self._any(norm, output)
        if not self.channels_last:
            return self._batch(norm, output)
        if isinstance(norm, nn.InstanceNorm1d):
            return norm(output.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]
        return self._batch(norm, output.reshape(-1, output.shape[-1])).reshape(output.shape)

    def _any(self, norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
        if self.channels_last and isinstance(norm, nn.GroupNorm):
            return norm(output.reshape(-1, output.shape[-1])).reshape(output.shape)  # type: ignore[no-any-return]
        return norm(output)  # type: ignore[no-any-return]

    def _batch(self, norm: nn.Module, output: torch.Tensor) -> torch.Tensor:
        if norm.training and output.numel() == output.shape[1]:
            # One value a channel has no variance: the statistics of the batches before stand in.
            running = norm.running_mean, norm.running_var, norm.weight, norm.bias
            return F.batch_norm(output, *running, False, 0.0, norm.eps)  # type: ignore[arg-type]
        return norm(output)  # type: ignore[no-any-return]


class NormaliseWeight:
    """A forward hook: the layer as if its weight were g v / |v| for each unit, with its own weight as v.

    As the layer is linear in its weight, its output is scaled instead.

    Args:
        name: the name of the module that holds g.
        channels_last: as for `Normalise`.
        transposed: the units are on axis 1 of the weight.
    """

    def __init__(self, name: str, channels_last: bool, transposed: bool) -> None:
        self.name = name
        self.channels_last = channels_last
        self.transposed = transposed

    def __call__(self, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        length = lengths(module.weight, self.transposed)  # type: ignore[arg-type]
        scale: Any = getattr(module, self.name).length / length
        bias: Any = module.bias
        if not self.channels_last:
            shape = (-1, *(1,) * (module.weight.dim() - 2))  # type: ignore[union-attr,operator]
            scale, bias = scale.view(shape), None if bias is None else bias.view(shape)  # type: ignore[operator]
        scaled: torch.Tensor = output * scale if bias is None else (output - bias) * scale + bias
        return scaled


class Length(nn.Module):
    """Holds the lengths g of weight normalisation."""

    def __init__(self, length: torch.Tensor) -> None:
        super().__init__()
        self.length = nn.Parameter(length)


def lengths(weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    """The Euclidean length of each unit's weights."""
    rows = weight.transpose(0, 1) if transposed else weight
    norms: torch.Tensor = rows.flatten(1).norm(dim=1)
    return norms.clamp_min(torch.finfo(weight.dtype).tiny)


class Around:
    """A forward hook that is given kwargs too: a way around the layer, x + f(x)."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        around: torch.Tensor = args[0] if args else kwargs["input"]
        return around + output


class Drop:
    """A forward hook before a layer that is given kwargs too: dropout on the layer's input, in training mode where
    gradients are taken: a script that has no dropout need not call `eval()` before it evaluates.

    Args:
        p: the probability of an element to become 0.
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return args, kwargs
        if args:
            return (F.dropout(args[0], self.p), *args[1:]), kwargs
        return args, {**kwargs, "input": F.dropout(kwargs["input"], self.p)}


class Largest:
    """A forward hook that is given kwargs too: the largest of what the layer and its further pieces give (maxout)."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        for piece in module.maxout_pieces:  # type: ignore[union-attr]
            output = torch.maximum(output, piece(*args, **kwargs))
        return output


class _Sign(torch.autograd.Function):
    """1 where x >= 0, else -1; the gradient goes straight through where |x| <= 1, and nowhere else.

    Source: Hubara et al., Binarized Neural Networks (2016), equation 4.
    """

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (x,) = context.saved_tensors
        passed: torch.Tensor = gradient * (x.abs() <= 1)
        return passed


def _sign(x: torch.Tensor) -> Any:
    return _Sign.apply(x)  # type: ignore[no-untyped-call]


class SignOfInput:
    """A forward hook before a layer that is given kwargs too: the layer sees the signs of its input."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (_sign(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "input": _sign(kwargs["input"])}


class StandStill:
    """A forward hook before a norm: it uses its running statistics and leaves them as they are."""

    def __call__(self, module: nn.Module, args: Any) -> None:
        module.training = False
