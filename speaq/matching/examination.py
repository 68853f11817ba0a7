"""What the assignment of one image is decided by, query by query, in every decoder layer (method sections 5 and 6).

Letters: L decoder layers, R relation queries, M relations of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from speaq.config import MatchingConfig
from speaq.matching.cost import compare
from speaq.matching.groups import PredicateGroups
from speaq.matching.match import group_mask, match
from speaq.matching.repeats import best_sum, quality
from speaq.matching.rows import relation_queries, relation_truth
from speaq.structures import LayerOutputs, Targets


@dataclass(frozen=True)
class Examination:
    """An assignment and what led to it."""

    cost: Tensor  # [L, M, R] matching cost, without the 1e6 of queries outside the relation's group
    outside: Tensor | None  # [M, R] whether the query is of another group than the relation; None: no groups
    quality: Tensor | None  # [L, M, R] how well the query finds the relation; None: static repeats need none
    quality_sum: Tensor | None  # [L, M] of the K best queries; truncated, and at least 1, it is the repeats
    repeats: Tensor  # [L, M] int64, k
    relation: Tensor  # [L, R] int64, the relation that each query is matched to; -1: none


@torch.no_grad()
def examine(
    outputs: LayerOutputs, target: Targets, config: MatchingConfig, groups: PredicateGroups | None, query_multiple: int
) -> Examination:
    """Matches one image as training does, and keeps what training throws away.

    Args:
        outputs: of one image.
        target: of the same image, which is the only one.
        config, groups, query_multiple: as in `speaq.matching.match.match`.
    Raises:
        NonFiniteError: NaN or infinity in the outputs or targets.
    """
    assignment = match(outputs, target, config, groups, query_multiple)
    queries, truth = relation_queries(outputs), relation_truth(target)
    found = compare(queries, truth, config.cost_class, config.cost_l1, config.cost_giou)
    _, _, outside = group_mask(queries, truth, groups, query_multiple)
    qualities = None if config.scheme == "static" else quality(found, config, outside)
    relation = truth.image.new_full((queries.shape[0], queries.shape[2]), -1)
    relation[assignment.layer, assignment.query] = assignment.relation
    return Examination(
        cost=found.cost,
        outside=outside,
        quality=qualities,
        quality_sum=None if qualities is None else best_sum(qualities, config.max_repeats),
        repeats=assignment.repeats[0],
        relation=relation,
    )
