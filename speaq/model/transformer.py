"""Attention, encoder and decoder layer of DETR (Carion et al., ECCV 2020), as the method uses them (section 2).

Letters: B images, S cells of the feature map, n queries or keys, d hidden size, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speaq.config import ModelConfig
from speaq.model.dropout import Dropout, attention
from speaq.model.position import sine_position
from speaq.model.recompute import run


@dataclass(frozen=True)
class Memory:
    """What the decoder attends to."""

    values: Tensor  # [B, S, d] encoder output
    keys: Tensor  # [B, S, d] the same plus its position
    attend: Tensor | None  # [B, 1, 1, S] bool, False is padding; None where nothing is padded


class Attention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`, without its overhead on small shapes.

    Args:
        dim: d, channels of query and output.
        num_heads: H.
        dropout: of the attention weights.
        source_dim: channels of key and value; None is d, and then the three projections are one parameter (this
            matters to Xavier's fan).
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, source_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads, self.dropout, self.packed = num_heads, dropout, source_dim is None
        if source_dim is None:
            self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        else:
            self.q_proj_weight = nn.Parameter(torch.empty(dim, dim))
            self.k_proj_weight = nn.Parameter(torch.empty(dim, source_dim))
            self.v_proj_weight = nn.Parameter(torch.empty(dim, source_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None = None) -> Tensor:
        """Attention of [B, n, d] queries over [B, m, source_dim] keys and values → [B, n, d].

        A query tensor of one row ([1, n, d]) serves all images; `query is key` shares one product.
        """
        q, k, v = (self._split_heads(x) for x in self._project(query, key, value))
        dropout = self.dropout if self.training else 0.0
        mixed = attention(q.expand(v.shape[0], -1, -1, -1), k, v, attend, dropout)  # [B, H, n, d/H]
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.packed and query is key:
            dim = self.out_proj.in_features
            weight, value_weight = torch.split(self.in_proj_weight, [2 * dim, dim])
            bias, value_bias = torch.split(self.in_proj_bias, [2 * dim, dim])
            q, k = F.linear(query, weight, bias).chunk(2, dim=-1)
            return q, k, F.linear(value, value_weight, value_bias)
        q_bias, k_bias, v_bias = self.in_proj_bias.chunk(3)
        q_weight, k_weight, v_weight = self._weights()
        return F.linear(query, q_weight, q_bias), F.linear(key, k_weight, k_bias), F.linear(value, v_weight, v_bias)

    def _weights(self) -> tuple[Tensor, ...]:
        """[d, d or source_dim] projections of query, key and value."""
        if self.packed:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, n, d] → [B, H, n, d/H]."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.hidden_dim, config.feedforward_dim)
        self.linear2 = nn.Linear(config.feedforward_dim, config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, d] → [B, n, d]."""
        return self.linear2(self.dropout(F.relu(self.linear1(x), inplace=True)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward; the position is added to query and key, not to the value."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = Attention(config.hidden_dim, config.num_heads, config.dropout)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.hidden_dim)
        self.norm2 = nn.LayerNorm(config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, attend: Tensor | None) -> Tensor:
        """[B, S, d] → [B, S, d]."""
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), position, attend)
            return x + self.dropout(self.feed_forward(self.norm2(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self._attend(x, position, attend))
        return self.norm2(x + self.dropout(self.feed_forward(x)))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor, position: Tensor, attend: Tensor | None) -> Tensor:
        placed = x + position
        return self.dropout(self.self_attention(placed, placed, x, attend))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Backbone features → memory: 1×1 projection, sine positions, encoder layers, and a last norm with `pre_norm`."""

    def __init__(self, config: ModelConfig, in_channels: int) -> None:
        super().__init__()
        self.recompute = config.activation_checkpointing
        self.projection = nn.Conv2d(in_channels, config.hidden_dim, kernel_size=1)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_dim) if config.pre_norm else nn.Identity()
        for parameter in [*self.layers.parameters(), *self.norm.parameters()]:
            xavier(parameter)

    def forward(self, features: Tensor, padding: Tensor) -> Memory:
        """Encodes [B, in_channels, H, W] features under a [B, H, W] padding mask (True is padding)."""
        x = self.projection(features).flatten(2).transpose(1, 2)  # [B, S, d]
        position, attend = _place(padding, x.shape[-1])
        for layer in self.layers:
            x = run(layer, x, position, attend, recompute=self.recompute)
        x = self.norm(x)
        return Memory(x, x + position, attend)


def _place(padding: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """[B, H, W] padding → [B or 1, H W, channels] positions of its cells, and `Memory.attend`."""
    # Whether anything is padded is known for free on the CPU alone: asking a GPU would wait for it.
    if padding.device.type == "cpu" and not torch.compiler.is_exporting() and not padding.any():
        padding, attend = padding[:1], None
    else:
        attend = ~padding.flatten(1)[:, None, None, :]
    return sine_position(padding, channels).flatten(1, 2), attend


def memory_of(cells: Tensor, padding: Tensor) -> Memory:
    """[B, H, W, d] outputs of the encoder under a [B, H, W] padding mask (True is padding) → the decoders' memory."""
    x = cells.flatten(1, 2)
    position, attend = _place(padding, x.shape[-1])
    return Memory(x, x + position, attend)


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the memory, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = Attention(config.hidden_dim, config.num_heads, config.dropout)
        self.cross_attention = Attention(config.hidden_dim, config.num_heads, config.dropout)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.LayerNorm(config.hidden_dim)
        self.norm2 = nn.LayerNorm(config.hidden_dim)
        self.norm3 = nn.LayerNorm(config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, memory: Memory) -> Tensor:
        """[B, n, d] content of queries at position [B or 1, n, d] → [B, n, d]."""
        if self.pre_norm:
            x = x + self._attend_self(self.norm1(x), position)
            x = x + self._attend_memory(self.norm2(x), position, memory)
            return x + self.dropout(self.feed_forward(self.norm3(x)))  # type: ignore[no-any-return]
        x = self.norm1(x + self._attend_self(x, position))
        x = self.norm2(x + self._attend_memory(x, position, memory))
        return self.norm3(x + self.dropout(self.feed_forward(x)))  # type: ignore[no-any-return]

    def _attend_self(self, x: Tensor, position: Tensor) -> Tensor:
        placed = x + position
        return self.dropout(self.self_attention(placed, placed, x))  # type: ignore[no-any-return]

    def _attend_memory(self, x: Tensor, position: Tensor, memory: Memory) -> Tensor:
        mixed = self.cross_attention(x + position, memory.keys, memory.values, memory.attend)
        return self.dropout(mixed)  # type: ignore[no-any-return]


def xavier(parameter: Tensor) -> None:
    """Initialises a parameter of rank above 1 as the method does; leaves others (method section 2)."""
    if parameter.dim() > 1:
        nn.init.xavier_uniform_(parameter)
