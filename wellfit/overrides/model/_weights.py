"""The weights of a model that an initialisation may set, gate by gate where a layer keeps several in one tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from wellfit.overrides.trial import Trial

# calculate_gain's, and for the smooth relatives of ReLU that of ReLU (He et al. 2015 derive it for a rectifier).
_GAINS = {"relu": "relu", "gelu": "relu", "silu": "relu", "mish": "relu", "elu": "relu", "celu": "relu",
          "relu6": "relu", "softplus": "relu", "hardswish": "relu", "leaky_relu": "leaky_relu", "prelu": "leaky_relu",
          "rrelu": "leaky_relu", "tanh": "tanh", "hardtanh": "tanh", "softsign": "tanh", "selu": "selu"}  # fmt: skip


@dataclass
class Weight:
    """A matrix (or filter bank) of a layer, with its bias.

    Attributes:
        obstacle: why it cannot be set; empty if it can.
    """

    layer: str
    module: nn.Module
    name: str
    parameter: torch.Tensor
    bias: torch.Tensor | None
    obstacle: str = ""

    @property
    def recurrent(self) -> bool:
        """Whether it belongs to a recurrent layer."""
        return self.name.startswith(("weight_ih", "weight_hh"))

    def parts(self) -> list[torch.Tensor]:
        """The matrices that stand in one tensor: the gates of a recurrent layer, queries, keys and values."""
        from torch import nn

        if self.name == "in_proj_weight":
            return list(self.parameter.chunk(3))
        if not self.recurrent:
            return [self.parameter]
        gates = 4 if isinstance(self.module, (nn.LSTM, nn.LSTMCell)) else 3
        return list(
            self.parameter.chunk(gates if isinstance(self.module, (nn.LSTM, nn.LSTMCell, nn.GRU, nn.GRUCell)) else 1)
        )


def weights_of(root: nn.Module, pattern: str) -> Iterator[Weight]:
    """The weights of at least two dimensions, but not those of norms and embeddings.

    Args:
        pattern: as a file name's (`*`, `?`), for the names of modules.
    """
    from torch import nn

    from wellfit.overrides.tree import is_norm

    computed = "the weight of the layer is computed from it and other parameters"
    for layer, module in root.named_modules():
        if is_norm(module) or isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or not fnmatchcase(layer, pattern):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dim() >= 2 and is_weight(module, name):
                bias = module._parameters.get(name.replace("weight", "bias")) if "weight" in name else None
                obstacle = computed if is_computed_from(module) else ""
                yield Weight(layer or type(module).__name__, module, name, parameter, bias, obstacle)


def is_weight(module: nn.Module, name: str) -> bool:
    """Of torch's layers everything is; of the user's own what is called so (a position embedding is none)."""
    return type(module).__module__.startswith("torch.nn") or "weight" in name or name in ("W", "w", "kernel")


def is_computed_from(module: nn.Module) -> bool:
    """Whether a weight is made anew in each call of what this module holds (weight normalisation and its kin)."""
    from torch.nn.utils.parametrize import ParametrizationList

    return isinstance(module, ParametrizationList) or "weight_g" in module._parameters


def gain_after(trial: Trial, layer: str) -> tuple[float, str]:
    """The gain that keeps the size of the signal through the activation after a layer, and that activation's name."""
    from torch import nn

    call = trial.activation_after(layer)
    name = call.activation if call is not None else None
    slope = 0.01
    if call is not None and call.module is not None:
        slope = getattr(call.module, "negative_slope", 0.01)
        if isinstance(call.module, nn.PReLU):
            slope = float(call.module.weight.detach().mean())
    elif call is not None:
        slope = float(call.options.get("negative_slope", 0.01))
    kind: Any = _GAINS.get(name or "", "linear")
    return nn.init.calculate_gain(kind, slope), name or "nothing"
