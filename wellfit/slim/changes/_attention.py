"""Attention whose heads need not fill the width of the model: what `nn.MultiheadAttention` becomes when it is cut."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from wellfit.slim.changes.change import Unfit


class SlimAttention(nn.Module):
    """Multi-head attention as `nn.MultiheadAttention` computes it, with the same names of parameters and arguments.

    `in_proj_weight` is [3 x heads x width of a head, width of the model]; `nn.MultiheadAttention` needs heads x width
    of a head to be the width of the model, this one does not. Scores are scaled as before the cut.

    Args:
        attention: the module that it takes the place of; its parameters are taken over.

    Raises:
        Unfit: it has learned rows added to keys and values, or zeros added, which are not provided for.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        if attention.bias_k is not None or attention.bias_v is not None or attention.add_zero_attn:
            raise Unfit("attention with add_bias_kv or add_zero_attn cannot be cut")
        self.in_proj_weight: nn.Parameter | None
        self.in_proj_bias: nn.Parameter | None
        self.num_heads: int
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.scale = 1 / math.sqrt(attention.head_dim)
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"):
            self.register_parameter(name, getattr(attention, name))
        self.out_proj: nn.Linear = attention.out_proj
        self.train(attention.training)
        # nn.TransformerEncoderLayer asks for it: its own fused kernel knows attention of full width only.
        self._qkv_same_embed_dim = False

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return int(self.out_proj.in_features) // self.num_heads

    def extra_repr(self) -> str:
        """The sizes, for print(model)."""
        return f"{self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `nn.MultiheadAttention.forward`; a mask of its own for each head must have as many as there are now."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (tensor.unsqueeze(0) for tensor in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
        q, k, v = (self._by_head(tensor) for tensor in self._projected(query, key, value))
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")  # the words of torch
        mask = _joined(q, k, attn_mask, key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout)
            heads = weights @ v
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale)
        mixed = heads.transpose(1, 2).flatten(2)
        out = cast(torch.Tensor, self.out_proj(mixed))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if weights is None:
            return out, None
        shown = weights.mean(dim=1) if average_attn_weights else weights
        return out, shown if batched else shown.squeeze(0)

    def _projected(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weights: tuple[torch.Tensor | Any, ...] = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if self.in_proj_weight is None
            else self.in_proj_weight.chunk(3)
        )
        q, k, v = (F.linear(x, weight, bias) for x, weight, bias in zip((query, key, value), weights, biases))
        return q, k, v

    def _by_head(self, tensor: torch.Tensor) -> torch.Tensor:
        """[batch, time, heads x width] as [batch, heads, time, width]."""
        return tensor.view(*tensor.shape[:-1], self.num_heads, -1).transpose(1, 2)


def _joined(
    q: torch.Tensor, k: torch.Tensor, attn_mask: torch.Tensor | None, key_padding_mask: torch.Tensor | None
) -> torch.Tensor | None:
    """What is added to the scores [batch, heads, time, time of keys]: minus infinity where one may not look."""
    total = None
    if attn_mask is not None:
        total = _added(attn_mask, q)
        if total.dim() == 3:  # one for each head of each sample
            total = total.view(*q.shape[:3], k.shape[2])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, q)[:, None, None, :]
        total = padding if total is None else total + padding
    return total


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask as numbers to add: True means minus infinity."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
