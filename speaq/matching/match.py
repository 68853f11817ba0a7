"""Which query learns which ground-truth row: groups, repeats, costs, assignment (method sections 4 to 6).

Letters as in `rows`: L layers, B images, R queries, E elements, T ground-truth rows of all images, S matched pairs.
Everything is computed for all layers and images at once on the device; costs and repeats come to the host in one
transfer, and the matched pairs go back in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from speaq.config import MatchingConfig
from speaq.matching.assign import Blocks, assign
from speaq.matching.cost import compare
from speaq.matching.groups import PredicateGroups
from speaq.matching.repeats import relation_repeats
from speaq.matching.rows import Queries, Truth, relation_queries, relation_truth, to_device
from speaq.structures import Assignment, FloatArray, IntArray, LayerOutputs, Targets, split_by_counts

# Entries L · rows · R of one piece of the cost, so of each of its temporaries.
CHUNK_ENTRIES_CPU = 2**17
CHUNK_ENTRIES_GPU = 2**24


class NonFiniteError(ValueError):
    """NaN or infinity in the matching cost: the message names tensor, layer, image and query."""


class NonFiniteOutputError(NonFiniteError):
    """The model's outputs are the cause: training has diverged."""


@dataclass(frozen=True)
class Pairs:
    """Matched (query, ground-truth row) pairs, sorted by (layer, image, query)."""

    layer: Tensor  # [S] int64
    query: Tensor  # [S] int64, flat over [L, B, R]
    row: Tensor  # [S] int64 in 0 … T-1
    num_pairs: Tensor  # [L] int64 of every layer
    num_pairs_last: int  # of the last layer, on the host
    by_group: IntArray  # [G, G+1] on the host: repeated rows of each group by the group of their query, or without one


def match(
    outputs: LayerOutputs, targets: Targets, config: MatchingConfig, groups: PredicateGroups | None, query_multiple: int
) -> Assignment:
    """Assigns relation queries to relations in every layer and image.

    Args:
        outputs: R = Q · query_multiple relation queries; halves are computed with in float32. No gradient is made.
        targets: of B images, on the device of `outputs`; an image may have no relation.
        config: scheme, K, quality, costs; without `independent` one assignment from the summed costs serves all layers.
        groups: predicate groups with Q queries in all; None: no grouping.
        query_multiple: m, relation queries for each subject query.
    Returns:
        The assignment, on the device of `outputs`. With fewer queries than repeated relations some stay unmatched.
    Raises:
        NonFiniteError: NaN or infinity in the outputs or targets of an image that has a relation.
    """
    truth = relation_truth(targets)
    with torch.no_grad():
        pairs, repeats = match_relations(relation_queries(outputs), truth, config, groups, query_multiple)
        num_queries = outputs.subject_boxes.shape[2]
        first_row = to_device(np.cumsum([0, *truth.counts[:-1]]), truth.image.device)
        image = truth.image[pairs.row]
    return Assignment(
        layer=pairs.layer,
        image=image,
        query=pairs.query % num_queries,
        relation=pairs.row - first_row[image],
        repeats=[k.T for k in split_by_counts(repeats.T, truth.counts)],
    )


@torch.no_grad()
def match_relations(
    queries: Queries, truth: Truth, config: MatchingConfig, groups: PredicateGroups | None, query_multiple: int
) -> tuple[Pairs, Tensor]:
    """`match` for what the losses have computed already; also returns the repeats [L, T]."""
    num_layers = queries.shape[0]
    group_of_row, bounds, outside = group_mask(queries, truth, groups, query_multiple)
    repeats = truth.image.new_empty(num_layers, len(truth.image))
    costs = []
    for first, end in _chunks(queries, truth):
        comparison = compare(queries, truth.rows(first, end), config)
        mask = None if outside is None else outside[first:end]
        repeats[:, first:end] = relation_repeats(comparison, config, mask)
        costs.append(comparison.cost if config.independent else comparison.cost.sum(0, keepdim=True))
    return _pairs(costs, repeats, group_of_row, bounds, queries, truth), repeats


def group_mask(
    queries: Queries, truth: Truth, groups: PredicateGroups | None, query_multiple: int
) -> tuple[Tensor, tuple[int, ...], Tensor | None]:
    """Which queries may learn which rows.

    Returns:
        [T] group of every row; [G+1] first relation query of every group, and R; [T, R] true where the query is of
        another group than the row (None: no groups).
    """
    num_queries = queries.shape[2]
    if groups is None:
        return torch.zeros_like(truth.image), (0, num_queries), None
    bounds = tuple(bound * query_multiple for bound in groups.bounds)
    assert bounds[-1] == num_queries, f"groups have {bounds[-1]} relation queries, the outputs {num_queries}"
    group_of_predicate, group_of_query = _group_index(groups, query_multiple, truth.image.device)
    group_of_row = group_of_predicate[truth.classes[2]]
    return group_of_row, bounds, group_of_row[:, None] != group_of_query


@torch.no_grad()
def match_objects(queries: Queries, truth: Truth, config: MatchingConfig) -> Pairs:
    """One-to-one assignment of a detector's queries to boxes, every layer on its own, with the same costs."""
    num_layers, _, num_queries = queries.shape
    costs = [compare(queries, truth.rows(first, end), config).cost for first, end in _chunks(queries, truth)]
    once = torch.ones_like(truth.image).expand(num_layers, -1)
    return _pairs(costs, once, torch.zeros_like(truth.image), (0, num_queries), queries, truth)


def _chunks(queries: Queries, truth: Truth) -> list[tuple[int, int]]:
    """Row ranges whose temporaries stay small: in the cache of a CPU, out of the way of a GPU's activations."""
    num_layers, _, num_queries = queries.shape
    entries = CHUNK_ENTRIES_CPU if truth.image.device.type == "cpu" else CHUNK_ENTRIES_GPU
    step = max(entries // (num_layers * num_queries), 1)
    return [(first, min(first + step, len(truth.image))) for first in range(0, max(len(truth.image), 1), step)]


def _pairs(
    costs: list[Tensor], repeats: Tensor, group_of_row: Tensor, bounds: tuple[int, ...], queries: Queries, truth: Truth
) -> Pairs:
    """Solves [L, T, R] costs, or [1, T, R] costs for all layers alike; they come in pieces along T."""
    num_layers, num_images, num_queries = queries.shape
    cost, host_repeats, host_group = _to_host(costs, repeats, group_of_row)
    if not np.isfinite(cost).all():
        raise _non_finite(queries, truth)
    image, blocks = truth.image_on_host, Blocks(host_group, bounds)
    layer, row, query = assign(cost, host_repeats, image, blocks)
    by_group = _by_group(host_repeats, row, query, blocks) * (num_layers // len(cost))
    if len(cost) < num_layers:
        layer = np.repeat(np.arange(num_layers), len(row))
        row, query = np.tile(row, num_layers), np.tile(query, num_layers)
    flat_query = (layer * num_images + image[row]) * num_queries + query
    num_pairs = np.bincount(layer, minlength=num_layers)
    packed = to_device(np.concatenate((layer, flat_query, row, num_pairs)), truth.image.device)
    parts = split_by_counts(packed, (len(row), len(row), len(row), num_layers))
    return Pairs(parts[0], parts[1], parts[2], parts[3], num_pairs_last=int(num_pairs[-1]), by_group=by_group)


def _by_group(repeats: IntArray, row: IntArray, query: IntArray, blocks: Blocks) -> IntArray:
    """[L, T] repeats and the matched pairs → [G, G+1], see `Pairs`."""
    num_groups = len(blocks.bounds) - 1
    pair = blocks.group_of_row[row] * num_groups + blocks.group_of_query[query]
    matched = np.bincount(pair, minlength=num_groups**2).reshape(num_groups, num_groups)
    wanted = np.bincount(blocks.group_of_row, weights=repeats.sum(0), minlength=num_groups).astype(np.int64)
    return np.column_stack((matched, wanted - matched.sum(1)))


def _to_host(costs: list[Tensor], repeats: Tensor, group_of_row: Tensor) -> tuple[FloatArray, IntArray, IntArray]:
    """Cost [L or 1, T, R], repeats alike and groups [T] in one transfer (such integers are exact in float32)."""
    repeats = repeats[: len(costs[0])]
    cost = torch.cat(costs, dim=1)
    numbers = torch.stack((repeats, group_of_row.expand_as(repeats))).to(cost.dtype)  # [2, L, T]
    host = torch.cat((cost.flatten(), numbers.flatten())).cpu().numpy()
    host_cost = host[: cost.numel()].reshape(cost.shape)
    host_repeats, host_group = host[cost.numel() :].reshape(numbers.shape).astype(np.int64)
    return host_cost, host_repeats, host_group[0]


@lru_cache(maxsize=8)
def _group_index(groups: PredicateGroups, query_multiple: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Group of every predicate [P] and of every relation query [R], on the device once and for all."""
    of_query = groups.group_of_query(query_multiple)
    return to_device(np.asarray(groups.group_of_predicate), device), to_device(of_query, device)


def _non_finite(queries: Queries, truth: Truth) -> NonFiniteError:
    """Looks for the culprit, with as many transfers as it takes: the run ends here."""
    num_layers = queries.shape[0]
    for layer in range(num_layers):
        for names, *tensors in zip(queries.names, queries.log_probabilities, queries.boxes, strict=True):
            for name, tensor in zip(names, tensors, strict=True):
                bad = (~tensor[layer].isfinite()).any(-1).nonzero().tolist()  # rows (image, query)
                if bad:
                    image, query = bad[0]
                    return NonFiniteOutputError(
                        f"{name} of decoder layer {layer + 1} of {num_layers}: NaN or infinite in {len(bad)} queries, "
                        f"first at image {image}, query {query} of the batch"
                    )
    rows = (~truth.boxes.isfinite()).any(-1).any(0).nonzero().flatten().tolist()
    if rows:
        return NonFiniteError(f"target boxes: NaN or infinite at image {int(truth.image[rows[0]])} of the batch")
    return NonFiniteError("matching cost: infinite though outputs and targets are finite; are the boxes in [0, 1]?")
