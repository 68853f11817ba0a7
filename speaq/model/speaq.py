"""SpeaQ: image → subject, object and relation predictions of every decoder layer (method section 2).

Letters: L decoder layers, B images, Q subject queries, m query multiple, R = Q m relation queries, C object classes,
P predicates, d hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speaq.config import ModelConfig
from speaq.model.backbone import Backbone, Normalise, build_backbone
from speaq.model.decoder import Decoder, Streams, repeat_rows
from speaq.model.position import pad_cells, padding_mask
from speaq.model.transformer import Encoder, Memory, memory_of, xavier
from speaq.structures import LayerOutputs


class BoxHead(nn.Module):
    """Three-layer perceptron d → 4 and a sigmoid: boxes as cxcywh in [0, 1].

    With reference points, a linear map of the query's position to (x, y) is added to the centre before the sigmoid,
    so that a query starts where its position says (not in the method).
    """

    def __init__(self, dim: int, reference_points: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])
        self.reference = nn.Linear(dim, 2) if reference_points else None
        for parameter in self.parameters():
            xavier(parameter)

    def forward(self, x: Tensor, query_positions: Tensor) -> Tensor:
        """[..., R, d] outputs of queries with [R, d] positions → [..., R, 4]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x), inplace=True)
        x = self.layers[-1](x)
        if self.reference is not None:
            x = x + F.pad(self.reference(query_positions), (0, 2))
        return torch.sigmoid(x)


def class_head(dim: int, num_classes: int) -> nn.Linear:
    """d → logits of the classes and, last, of background."""
    head = nn.Linear(dim, num_classes + 1)
    xavier(head.weight)
    return head


class Transformer(nn.Module):
    """Everything behind the backbone."""

    encoder: Encoder

    def decode(self, memory: Memory) -> Any:
        """What the encoder has made of the pictures → raw outputs of all decoder layers."""
        raise NotImplementedError


class SceneGraphTransformer(Transformer):
    """Everything behind the backbone: encoder, query sets, three-stream decoder, heads.

    Args:
        config: shape of the network.
        in_channels: channels of the backbone's features.
        num_classes: C.
        num_predicates: P.
    """

    def __init__(self, config: ModelConfig, in_channels: int, num_classes: int, num_predicates: int) -> None:
        super().__init__()
        dim, multiple = config.hidden_dim, config.query_multiple
        num_relations = config.num_queries * multiple
        num_entities = num_relations if config.multiply_queries == "all" else config.num_queries
        self.query_multiple = num_relations // num_entities
        self.encoder = Encoder(config, in_channels)
        self.subject_queries = nn.Parameter(torch.randn(num_entities, dim))
        self.object_queries = nn.Parameter(torch.randn(num_entities, dim))
        self.relation_queries = nn.Parameter(torch.randn(num_relations, dim))
        self.decoder = Decoder(config)
        self.class_head = class_head(dim, num_classes)
        self.predicate_head = class_head(dim, num_predicates)
        self.box_head = BoxHead(dim, config.reference_points)

    def forward(self, features: Tensor, padding: Tensor) -> LayerOutputs:
        """[B, in_channels, H, W] features under a [B, H, W] padding mask (True is padding) → raw outputs."""
        return self.decode(self.encoder(features, padding))

    def decode(self, memory: Memory) -> LayerOutputs:
        """Everything behind the encoder."""
        learned = Streams(self.subject_queries[None], self.object_queries[None], self.relation_queries[None])
        entities, relations = self.decoder(learned, memory)
        positions = torch.cat((self.subject_queries, self.object_queries, self.relation_queries))
        boxes = self.box_head(torch.cat((entities, relations), dim=2), positions)  # [L, B, 2Q + R, 4]
        count = len(self.subject_queries)
        subject_logits, object_logits = self.class_head(entities).split(count, dim=2)
        subject_boxes, object_boxes, relation_boxes = boxes.split((count, count, len(self.relation_queries)), dim=2)
        return LayerOutputs(
            subject_logits=self._repeat(subject_logits),
            object_logits=self._repeat(object_logits),
            predicate_logits=self.predicate_head(relations),
            subject_boxes=self._repeat(subject_boxes),
            object_boxes=self._repeat(object_boxes),
            relation_boxes=relation_boxes,
        )

    def _repeat(self, x: Tensor) -> Tensor:
        """[L, B, Q, ·] → [L, B, R, ·]."""
        return repeat_rows(x, self.query_multiple)


class Network(nn.Module):
    """A backbone and the transformer behind it, which a subclass adds, and then calls `freeze`.

    Frozen parts get no gradient and drop nothing out. They look at each picture by itself, without the padding of its
    batch: so what they make of a picture is the same in any batch, and may be stored.
    """

    transformer: Transformer

    def __init__(self, config: ModelConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.frozen = config.frozen
        self.normalise = Normalise()
        self.backbone = backbone if backbone is not None else build_backbone(config)

    def freeze(self) -> None:
        """Turns off the gradients of the frozen parts."""
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _frozen_parts(self) -> list[nn.Module]:
        parts = {"backbone": self.backbone, "encoder": self.transformer.encoder}
        return [parts[name] for name in self.frozen]

    def train(self, mode: bool = True) -> Network:
        """As of any module; the frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    def forward(self, images: Tensor, sizes_hw: Tensor, encoded: bool = False) -> Any:
        """Raw outputs of all decoder layers.

        Args:
            images: [B, 3, H, W] RGB, uint8 or float in 0..255, padded at the lower right; with `encoded`
                [B, H / stride, W / stride, d], what `cells` makes of each picture, padded likewise.
            sizes_hw: [B, 2] int64 un-padded height and width of the images, pixels.
        """
        if not encoded and (not self.frozen or torch.compiler.is_exporting()):
            features = self.backbone(self.normalise(images, sizes_hw))
            return self.transformer(features, padding_mask(sizes_hw, features.shape[-2:], self.backbone.stride))
        cells = images if encoded else self._apart(images, sizes_hw)
        padding = padding_mask(sizes_hw, cells.shape[1:3], self.backbone.stride)
        if "encoder" in self.frozen:
            return self.transformer.decode(memory_of(cells, padding))
        return self.transformer(cells.permute(0, 3, 1, 2), padding)

    def _apart(self, images: Tensor, sizes_hw: Tensor) -> Tensor:
        """[B, 3, H, W] → [B, h, w, c], what `cells` makes of each picture, padded with 0."""
        sizes = sizes_hw.tolist()
        return pad_cells([self.cells(image[:, :h, :w]) for image, (h, w) in zip(images, sizes, strict=True)])

    @torch.no_grad()
    def cells(self, image: Tensor) -> Tensor:
        """What the frozen parts make of one picture.

        Args:
            image: [3, h, w] RGB, uint8 or float in 0..255.

        Returns:
            [h / stride, w / stride, c], rounded up: outputs of the encoder where it is frozen, else of the backbone.
        """
        alone = image[None].contiguous(memory_format=torch.channels_last)
        size_hw = torch.tensor([alone.shape[-2:]], device=image.device)
        features = self.backbone(self.normalise(alone, size_hw))
        if "encoder" not in self.frozen:
            return features[0].permute(1, 2, 0)  # type: ignore[no-any-return]
        padding = padding_mask(size_hw, features.shape[-2:], self.backbone.stride)
        values: Tensor = self.transformer.encoder(features, padding).values
        return values[0].view(*features.shape[-2:], -1)


class SpeaQ(Network):
    """The whole model; the baseline is the same with query_multiple 1.

    Args:
        config: shape of the network.
        num_classes: C, object classes without background.
        num_predicates: P, predicates without no-relation.
        backbone: feature extractor to use instead of the configured one.
    """

    transformer: SceneGraphTransformer

    def __init__(
        self, config: ModelConfig, num_classes: int, num_predicates: int, backbone: Backbone | None = None
    ) -> None:
        super().__init__(config, backbone)
        self.transformer = SceneGraphTransformer(config, self.backbone.out_channels, num_classes, num_predicates)
        self.freeze()
