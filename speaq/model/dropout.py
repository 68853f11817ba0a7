"""Dropout that is quick on a CPU too.

There PyTorch draws 64 random bits for every element, one after the other, and has no fused attention with dropout:
random masks took a fifth of a training step of the official model. 16 bits an element are enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # of a draw: p is rounded to 1 / LEVELS, and what stays is scaled by what was really drawn


class Dropout(nn.Module):
    """`nn.Dropout`, with a mask of `keep_mask` on a CPU."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of any shape → the same shape; what stays is scaled so that the mean stays."""
        if not self.training or _level(self.p) == 0 or x.device.type != "cpu":
            return F.dropout(x, self.p, self.training)
        return torch.where(keep_mask(x.shape, self.p), x, 0.0) * _scale(self.p)


def attention(query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None, dropout: float) -> Tensor:
    """softmax(query keyᵀ / √c) value, with dropout of the softmax.

    Args:
        query: [B, H, n, c]; key, value: [B, H, m, c].
        attend: bool, broadcasts to [B, H, n, m]; False hides a key. Every query sees at least one.
        dropout: probability in [0, 1); 0 in evaluation.

    Returns:
        [B, H, n, c].
    """
    if _level(dropout) == 0 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)  # [B, H, n, m]
    if attend is not None:
        scores = scores.masked_fill(~attend, -math.inf)
    weights = torch.where(keep_mask(scores.shape, dropout), scores.softmax(-1), 0.0)
    return weights @ (value * _scale(dropout))


def keep_mask(shape: Sequence[int], p: float) -> Tensor:
    """Bool on the CPU, False with probability `p` (to 1 / LEVELS), from PyTorch's own generator."""
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # 4 draws in each
    return (bits.view(torch.int16)[:count] >= _level(p) - LEVELS // 2).view(*shape)


def _level(p: float) -> int:
    return round(p * LEVELS)


def _scale(p: float) -> float:
    return LEVELS / (LEVELS - _level(p))
