"""Random outputs and targets for the tests of matching and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from speaq.structures import LayerOutputs, Target

NUM_CLASSES, NUM_PREDICATES = 5, 7
PREDICATE_COUNT = (50, 30, 20, 10, 5, 2, 0)


def random_boxes(*shape: int, generator: torch.Generator) -> Tensor:
    """[*shape, 4] cxcywh inside the image."""
    sizes = torch.rand(*shape, 2, generator=generator) * 0.4 + 0.05
    centres = sizes / 2 + torch.rand(*shape, 2, generator=generator) * (1 - sizes)
    return torch.cat((centres, sizes), dim=-1)


def random_target(num_boxes: int, num_relations: int, generator: torch.Generator) -> Target:
    ends = torch.randint(max(num_boxes, 1), (num_relations, 2), generator=generator)
    predicates = torch.randint(NUM_PREDICATES, (num_relations, 1), generator=generator)
    return Target(
        classes=torch.randint(NUM_CLASSES, (num_boxes,), generator=generator),
        boxes=random_boxes(num_boxes, generator=generator),
        relations=torch.cat((ends, predicates), dim=1),
        relation_boxes=random_boxes(num_relations, generator=generator),
    )


def random_outputs(num_layers: int, num_images: int, num_queries: int, generator: torch.Generator) -> LayerOutputs:
    shape = (num_layers, num_images, num_queries)
    logits = [2 * torch.randn(*shape, n + 1, generator=generator) for n in (NUM_CLASSES, NUM_CLASSES, NUM_PREDICATES)]
    return LayerOutputs(*logits, *(random_boxes(*shape, generator=generator) for _ in range(3)))


def random_case(
    seed: int, num_layers: int, num_queries: int, relations: Sequence[int]
) -> tuple[LayerOutputs, list[Target]]:
    """A batch with the given number of relations in every image."""
    generator = torch.Generator().manual_seed(seed)
    targets = [random_target(max(count, 1), count, generator) for count in relations]
    return random_outputs(num_layers, len(relations), num_queries, generator), targets


def select(outputs: LayerOutputs, dim: int, index: Sequence[int]) -> LayerOutputs:
    """Layers (0), images (1) or queries (2) in another order, or some of them."""
    chosen = torch.tensor(index)
    return LayerOutputs(**{f.name: getattr(outputs, f.name).index_select(dim, chosen) for f in fields(outputs)})
