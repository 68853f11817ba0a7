"""How often every relation is repeated before assignment (method section 5).

Letters as in `rows`: L layers, T relations of all images, R relation queries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from speaq.config import MatchingConfig
from speaq.matching.cost import Comparison


def quality(comparison: Comparison, config: MatchingConfig, outside: Tensor | None) -> Tensor:
    """How well every query already finds every relation.

    Args:
        comparison: elements subject, object, relation.
        config: `quality` and `predicate_weight`.
        outside: [T, R] true where the query is of another group than the relation: the IoUs are 0 there, the
            predicate's term stays (as the reference has it, golden G2). None: no groups.
    Returns:
        [L, T, R]; below 0 at times where the weight is.
    """
    subject_iou, object_iou, _ = comparison.ious
    combined = _combine(subject_iou, object_iou, config)
    if outside is not None:
        combined = combined.masked_fill(outside, 0.0)
    if config.predicate_weight != 0:
        combined = combined.add(comparison.probabilities[2], alpha=config.predicate_weight)
    return combined


def _combine(subject_iou: Tensor, object_iou: Tensor, config: MatchingConfig) -> Tensor:
    match config.quality:
        case "min":
            return torch.minimum(subject_iou, object_iou)
        case "max":
            return torch.maximum(subject_iou, object_iou)
        case "geometric":
            return (subject_iou * object_iou).sqrt_()
        case "arithmetic":
            return (subject_iou + object_iou).mul_(0.5)
        case None:
            raise AssertionError("the configuration refuses dynamic repeats without a quality")


def best_sum(qualities: Tensor, max_repeats: int) -> Tensor:
    """[L, T, R] → [L, T], the sum over the K best queries (over all, where there are fewer)."""
    return qualities.topk(min(max_repeats, qualities.shape[-1]), dim=-1, sorted=False).values.sum(-1)


def repeats_from_sum(quality_sum: Tensor) -> Tensor:
    """Truncates toward zero, at least 1, int64. NaN becomes 1 (the costs tell of it)."""
    return quality_sum.nan_to_num(1.0).long().clamp_(min=1)


def relation_repeats(comparison: Comparison, config: MatchingConfig, outside: Tensor | None) -> Tensor:
    """[L, T] int64 repeats k of every relation in every layer; K everywhere with the static scheme."""
    if config.scheme == "static":
        num_layers, num_relations, _ = comparison.cost.shape
        return torch.full((num_layers, num_relations), config.max_repeats, device=comparison.cost.device)
    return repeats_from_sum(best_sum(quality(comparison, config, outside), config.max_repeats))
