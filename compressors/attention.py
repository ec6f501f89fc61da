"""Attention whose heads may be narrower than torch's, and the channels in its heads."""

from collections.abc import Collection
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors.contract import ChannelGroup, ChannelSlice


class HeadAttention(nn.Module):
    """What ``nn.MultiheadAttention`` computes, for heads of any width.

    Torch's module derives the width of a head from that of the embedding. Here the widths are those of
    the tensors, which keep torch's names: ``in_proj_weight`` has 2 h d rows of queries and keys and h e
    rows of values, and ``out_proj`` reads h e channels. The scale of the scores stays that of the dense
    heads. It is called as torch's module is.

    Args:
        dense: what it replaces; the tensors are shared with it.
    """

    def __init__(self, dense: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first, self.dropout = dense.num_heads, dense.batch_first, dense.dropout
        self.in_proj_weight, self.in_proj_bias = dense.in_proj_weight, dense.in_proj_bias
        self.out_proj = dense.out_proj
        self.scale = float(dense.head_dim) ** -0.5
        # Torch's encoder layers ask for this before they take a fused path for torch's own module.
        self._qkv_same_embed_dim = False
        self.train(dense.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Arguments and results are those of ``nn.MultiheadAttention``."""
        batched = query.dim() == 3
        first = self.batch_first or not batched
        q, k, v = (
            t if first else t.transpose(0, 1)
            for t in (t if batched else t.unsqueeze(0) for t in (query, key, value))
        )
        # As torch does: that a mask is causal is a hint, and the mask itself is what counts.
        del is_causal
        mask = _mask(attn_mask, key_padding_mask, self.num_heads, q)
        mixed, weights = self._attend(self._heads(q, k, v), mask, need_weights)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        mixed = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return mixed.squeeze(0), weights
        return mixed if self.batch_first else mixed.transpose(0, 1), weights

    def _heads(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values, shape (batch, heads, length, width)."""
        values = self.out_proj.weight.shape[1]
        queries = (len(self.in_proj_weight) - values) // 2
        sizes = [queries, queries, values]
        weights = torch.split(self.in_proj_weight, sizes)
        biases = [None] * 3 if self.in_proj_bias is None else torch.split(self.in_proj_bias, sizes)
        return [
            F.linear(x, weight, bias).reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, weight, bias in zip(inputs, weights, biases, strict=True)
        ]

    def _attend(
        self, heads: list[Tensor], mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = heads
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=self.scale), None
        scores = q @ k.transpose(2, 3) * self.scale
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights


def _mask(attn_mask: Tensor | None, padding: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
    """Both masks as numbers to add to scores, or None."""
    total: Tensor | None = None
    if attn_mask is not None:
        total = _numbers(attn_mask, like)
        # Torch takes (length, length), or (batch * heads, length, length).
        total = total if total.dim() == 2 else total.reshape(-1, heads, *total.shape[1:])
    if padding is not None:
        padded = _numbers(padding, like).reshape(-1, 1, 1, padding.shape[-1])
        total = padded if total is None else total + padded
    return total


def _numbers(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, float("-inf"))


def open_attention(model: nn.Module, tensors: Collection[str] | None = None) -> None:
    """Replaces torch's attention modules in place by ones that take narrower heads.

    Args:
        model: any module.
        tensors: only modules that hold one of these tensors are replaced; None for all.
    """
    for name, module in list(model.named_modules()):
        names = {f"{name}.{own}" for own, _ in module.named_parameters()}
        if name and is_plain_attention(module) and (tensors is None or names & set(tensors)):
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, HeadAttention(module))


def is_plain_attention(module: nn.Module) -> bool:
    """Whether a module is torch's own attention, of one embedding and without further keys."""
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


def head_groups(name: str, attention: nn.MultiheadAttention) -> list[ChannelGroup]:
    """Channels in the heads of an attention module.

    Query and key channels meet in the scores, a sum of products q_i k_i: a cluster's queries become
    their mean and its keys their sum. A cluster's values become their mean, and the columns of the
    output projection that read them their sum. Channels of different heads do not meet.

    Args:
        name: of the module.
        attention: as ``is_plain_attention`` accepts it.

    Returns:
        Query/key pairs, then values; groups of as many channels as the embedding has.
    """
    size = attention.embed_dim
    channels = np.arange(size)

    def rows(part: int, role: Literal["in", "out"]) -> list[ChannelSlice]:
        tensors = ["in_proj_weight", *([] if attention.in_proj_bias is None else ["in_proj_bias"])]
        return [ChannelSlice(f"{name}.{t}", 0, role, part * size + channels, channels) for t in tensors]

    columns = ChannelSlice(f"{name}.out_proj.weight", 1, "in", channels, channels)
    slices = {"query_key": [*rows(0, "out"), *rows(1, "in")], "value": [*rows(2, "out"), columns]}
    return [
        ChannelGroup(
            name=f"{name}.{part}",
            size=size,
            producers=(f"{name}.in_proj_weight",),
            norms={},
            slices=tuple(pieces),
            blocks=channels // attention.head_dim,
            paddings=(),
        )
        for part, pieces in slices.items()
    ]
