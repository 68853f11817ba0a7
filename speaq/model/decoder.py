"""SpeaQ's decoder: a subject, an object and a relation stream that condition and refine each other (method section 2).

Letters: L layers, B images, Q subject (and object) queries, R = Q m relation queries, d hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speaq.config import ModelConfig
from speaq.model.dropout import Dropout
from speaq.model.recompute import run
from speaq.model.transformer import Attention, DecoderLayer, Memory, xavier


@dataclass(frozen=True)
class Streams:
    """One tensor for each of the three query sets: [B, Q, d], [B, Q, d] and [B, R, d]."""

    subject: Tensor
    object: Tensor
    relation: Tensor

    def concatenate(self, query_multiple: int) -> Tensor:
        """[B, R, 3d], each subject and object row repeated in place."""
        rows = (repeat_rows(x, query_multiple) for x in (self.subject, self.object))
        batch = self.relation.shape[0]
        return torch.cat([*(x.expand(batch, -1, -1) for x in rows), self.relation], dim=-1)


def repeat_rows(x: Tensor, times: int) -> Tensor:
    """[..., n, d] → [..., n times, d], each row repeated in place."""
    return x if times == 1 else x.repeat_interleave(times, dim=-2)


class Conditioning(nn.Module):
    """Moves query positions towards what earlier streams found: position + dropout(W Attn(position, key, value))."""

    def __init__(self, config: ModelConfig, source_dim: int | None) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_dim, config.num_heads, config.dropout, source_dim)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[1, n, d] positions over [B, m, source_dim] keys and values → [B, n, d]."""
        return position + self.dropout(self.output(self.attention(position, key, value)))  # type: ignore[no-any-return]


class Refinement(nn.Module):
    """Adds to a stream's content what the triplets say: x + norm(dropout(W Attn(x + position, triplets)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_dim, config.num_heads, config.dropout, 3 * config.hidden_dim)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.norm = nn.LayerNorm(config.hidden_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, n, d] content over [B, R, 3d] keys and values → [B, n, d]."""
        found = self.output(self.attention(x + position, key, value))
        return x + self.norm(self.dropout(found))  # type: ignore[no-any-return]


class ThreeStreamLayer(nn.Module):
    """One decoder layer: subject, then object, then relation, then (but in the last layer) the refinement of all."""

    def __init__(self, config: ModelConfig, last: bool) -> None:
        super().__init__()
        self.query_multiple = config.query_multiple if config.multiply_queries == "relation" else 1
        self.subject = DecoderLayer(config)
        self.object = DecoderLayer(config)
        self.relation = DecoderLayer(config)
        self.object_conditioning = Conditioning(config, None)
        self.relation_conditioning = Conditioning(config, 2 * config.hidden_dim)
        names = () if last else ("subject", "object", "relation")
        self.refinements = nn.ModuleDict({name: Refinement(config) for name in names})

    def forward(self, content: Streams, learned: Streams, memory: Memory) -> tuple[Streams, Streams]:
        """Streams of content at the learned positions → (the layer's outputs, the conditioned positions)."""
        s = self.subject(content.subject, learned.subject, memory)
        s_key = s + learned.subject
        o_position = self.object_conditioning(learned.object, s_key, s)
        o = self.object(content.object, o_position, memory)
        r_position = self.relation_conditioning(
            learned.relation, torch.cat((s_key, o + o_position), dim=-1), torch.cat((s, o), dim=-1)
        )
        r = self.relation(content.relation, r_position, memory)
        return Streams(s, o, r), Streams(learned.subject, o_position, r_position)

    def refine(self, x: Streams, position: Streams) -> Streams:
        """The content of the next layer; the last layer has none."""
        value = x.concatenate(self.query_multiple)
        key = value + position.concatenate(self.query_multiple)
        return Streams(
            subject=self.refinements["subject"](x.subject, position.subject, key, value),
            object=self.refinements["object"](x.object, position.object, key, value),
            relation=self.refinements["relation"](x.relation, position.relation, key, value),
        )


class Decoder(nn.Module):
    """All layers; every layer's outputs are kept."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.recompute = config.activation_checkpointing
        count = config.num_decoder_layers
        self.layers = nn.ModuleList(ThreeStreamLayer(config, last=i == count - 1) for i in range(count))
        self.entity_norm = nn.LayerNorm(config.hidden_dim)
        self.relation_norm = nn.LayerNorm(config.hidden_dim)
        for parameter in self.parameters():
            xavier(parameter)
        for module in self.modules():
            if isinstance(module, Conditioning | Refinement):
                nn.init.zeros_(module.output.weight)
                nn.init.zeros_(module.output.bias)

    def forward(self, learned: Streams, memory: Memory) -> tuple[Tensor, Tensor]:
        """Decodes queries at learned positions ([1, n, d] each).

        Returns:
            [L, B, 2Q, d] subjects then objects, and [L, B, R, d] relations, both normalised.
        """
        batch = memory.values.shape[0]
        content = Streams(*(x.new_zeros(()).expand(batch, *x.shape[1:]) for x in vars(learned).values()))
        entities, relations = [], []
        for layer in self.layers:
            assert isinstance(layer, ThreeStreamLayer)
            output, position = run(layer, content, learned, memory, recompute=self.recompute)
            entities.append(torch.cat((output.subject, output.object), dim=1))
            relations.append(output.relation)
            if layer.refinements:
                content = run(layer.refine, output, position, recompute=self.recompute)
        return self.entity_norm(torch.stack(entities)), self.relation_norm(torch.stack(relations))
