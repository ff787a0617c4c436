"""Modules of torch keep their sizes as numbers too (`in_features`): they follow their tensors here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from wellfit.slim.changes._attention import SlimAttention

_Conv = nn.modules.conv._ConvNd
_ConvTransposed = nn.modules.conv._ConvTransposeNd
_Norm = nn.modules.batchnorm._NormBase


def refit(module: nn.Module) -> None:
    """Set the sizes that a module notes down to those of its tensors; one of a user's own class is left alone."""
    for kind, follow in _FOLLOWED:
        if isinstance(module, kind):
            follow(module)
            return


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _conv(module: Any) -> None:
    """Groups are cut as a whole: as many outputs belong to a group as before."""
    if isinstance(module, _ConvTransposed):
        per_group = module.in_channels // module.groups
        module.groups = module.weight.shape[0] // per_group if module.groups > 1 else 1
        module.in_channels, module.out_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
    else:
        per_group = module.out_channels // module.groups
        module.groups = module.weight.shape[0] // per_group if module.groups > 1 else 1
        module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups


def _norm(module: Any) -> None:
    tensor = module.weight if module.weight is not None else module.running_mean
    module.num_features = tensor.shape[0]


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any) -> None:
    if module.num_groups > 1:
        module.num_groups = module.weight.shape[0] // (module.num_channels // module.num_groups)
    module.num_channels = module.weight.shape[0]


def _embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: Any) -> None:
    module.num_parameters = module.weight.shape[0]


def _recurrent(module: Any) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.hidden_size = module.weight_ih_l0.shape[0] // gates
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]
    module.flatten_parameters()


def _cell(module: Any) -> None:
    gates = 4 if isinstance(module, nn.LSTMCell) else 3 if isinstance(module, nn.GRUCell) else 1
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_ih.shape[0] // gates


def _attention(module: Any) -> None:
    module.embed_dim = module.out_proj.weight.shape[0]


_FOLLOWED: tuple[tuple[type | tuple[type, ...], Callable[[Any], None]], ...] = (
    (nn.Linear, _linear),
    (_Conv, _conv),
    (_Norm, _norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (SlimAttention, _attention),
)
