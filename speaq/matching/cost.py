"""Matching cost between every ground-truth row and every query of its image (method section 6).

Letters as in `rows`: L layers, B images, R queries, E elements, T ground-truth rows.
Rows of different images never meet, and no row is padded: query values are gathered by the row's image, so the work is
L T R however uneven the images are. R is innermost: it is the long side, and the solver wants rows to be the short one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from speaq.config import MatchingConfig
from speaq.matching.rows import Queries, Truth


@dataclass(frozen=True)
class Comparison:
    """Every ground-truth row against every query of its image."""

    cost: Tensor  # [L, T, R] without the group mask
    probabilities: tuple[Tensor, ...]  # E of [L, T, R] softmax probability of the row's class
    ious: tuple[Tensor, ...]  # E of [L, T, R] in [0, 1]


@torch.no_grad()
def compare(queries: Queries, truth: Truth, config: MatchingConfig) -> Comparison:
    """The summed cost of all elements, and what the quality needs.

    cost = Σ over elements of cost_class · (-p) + cost_l1 · L1 + cost_giou · (-GIoU). NaN and infinity pass through.
    """
    num_layers, _, num_queries = queries.shape
    cost = truth.boxes.new_zeros(num_layers, len(truth.image), num_queries)
    probabilities, ious = [], []
    for element, (log_probabilities, boxes) in enumerate(zip(queries.log_probabilities, queries.boxes, strict=True)):
        probability = class_probability(log_probabilities, truth.image, truth.classes[element])
        l1, iou, giou = box_distances(boxes, truth.image, truth.boxes[element])
        cost.sub_(probability, alpha=config.cost_class).add_(l1, alpha=config.cost_l1)
        cost.sub_(giou, alpha=config.cost_giou)
        probabilities.append(probability)
        ious.append(iou)
    return Comparison(cost, tuple(probabilities), tuple(ious))


def class_probability(log_probabilities: Tensor, image: Tensor, classes: Tensor) -> Tensor:
    """[L, B, R, C+1], [T], [T] → [L, T, R] probability that the queries of a row's image give to its class."""
    by_class = log_probabilities.permute(1, 3, 0, 2)  # [B, C+1, L, R], a view
    return by_class[image, classes].exp_().transpose(0, 1)


def box_distances(boxes: Tensor, image: Tensor, target_boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L1 distance, IoU and GIoU of the queries' boxes with every row's.

    In one dimension the overlap of two intervals and their hull are (w1 + w2) / 2 ∓ max(|c1 - c2|, |w1 - w2| / 2), so
    the four differences that L1 needs give all three, with no corner ever formed.

    Args:
        boxes: [L, B, R, 4] cxcywh.
        image: [T] image of every row.
        target_boxes: [T, 4] cxcywh.
    Returns:
        Three [L, T, R]; as in `speaq.boxes`, a term whose union or hull is empty is 0.
    """
    given = boxes.movedim(-1, 0).index_select(2, image)  # [4, L, T, R]
    wanted = target_boxes.T[:, None, :, None]  # [4, 1, T, 1]
    distance = (given - wanted).abs_()
    l1 = distance.sum(0)
    spread = torch.maximum(distance[:2], distance[2:].mul_(0.5))  # [2, L, T, R], for x and y
    mean_side = (given[2:] + wanted[2:]).mul_(0.5)
    overlap = (mean_side - spread).clamp_(min=0)
    hull_sides = mean_side.add_(spread)
    intersection = overlap[0] * overlap[1]
    union = (given[2] * given[3]).add_(wanted[2] * wanted[3]).sub_(intersection)
    hull = hull_sides[0] * hull_sides[1]
    tiny = torch.finfo(union.dtype).tiny
    iou = intersection.div_(union.clamp(min=tiny))
    giou = iou - union.neg_().add_(hull).div_(hull.clamp_(min=tiny))
    return l1, iou, giou
