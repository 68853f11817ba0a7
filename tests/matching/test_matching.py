from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from speaq.boxes import cxcywh_to_xyxy, giou, iou
from speaq.config import MatchingConfig
from speaq.matching.assign import OUTSIDE_COST, Blocks, assign
from speaq.matching.cost import compare
from speaq.matching.groups import PredicateGroups, make_groups
from speaq.matching.match import NonFiniteError, match
from speaq.matching.repeats import best_sum, quality, repeats_from_sum
from speaq.matching.rows import relation_queries, relation_truth
from speaq.structures import Assignment, LayerOutputs, Target
from speaq.targets import join
from tests.helpers.matching_cases import PREDICATE_COUNT, random_case, select

STATIC = MatchingConfig(scheme="static", quality=None, predicate_weight=0.0, max_repeats=1, num_groups=1)
DYNAMIC = MatchingConfig(num_groups=3)


@st.composite
def assignments(draw: st.DrawFn) -> dict[str, Any]:
    """Costs, repeats and groups, overflowing groups and more rows than queries among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_layers, num_images = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(lambda q: sum(q) > 0))
    counts = draw(st.lists(st.integers(0, 5), min_size=num_images, max_size=num_images))
    num_rows, bounds = sum(counts), tuple(np.cumsum([0, *queries]).tolist())
    return {
        "cost": rng.normal(size=(num_layers, num_rows, bounds[-1])).astype(np.float32),
        "repeats": rng.integers(1, 5, size=(num_layers, num_rows)),
        "image_of_row": np.repeat(np.arange(num_images), counts),
        "blocks": Blocks(rng.integers(0, len(queries), size=num_rows), bounds),
    }


@given(assignments())
@settings(max_examples=100, deadline=None)
def test_assignment_is_injective_and_as_cheap_as_the_full_matrix(case: dict[str, Any]) -> None:
    cost, repeats, image_of_row, blocks = case.values()
    layer, row, query = assign(**case)
    for one_layer in range(len(cost)):
        for image in np.unique(image_of_row):
            rows = np.flatnonzero(image_of_row == image)
            mine = (layer == one_layer) & (image_of_row[row] == image)
            copies = np.repeat(rows, repeats[one_layer, rows])
            mask = OUTSIDE_COST * (blocks.group_of_row[:, None] != blocks.group_of_query)
            full = (cost[one_layer] + mask)[copies]
            best = full[linear_sum_assignment(full)].sum()
            ours = (cost[one_layer] + mask)[row[mine], query[mine]].sum()
            assert ours == pytest.approx(best, abs=1e-6)
            assert len(set(query[mine].tolist())) == mine.sum() == min(len(copies), cost.shape[2])
            assert all((row[mine] == r).sum() <= repeats[one_layer, r] for r in rows)


@given(assignments())
@settings(deadline=None)
def test_assignment_is_sorted_by_layer_image_query(case: dict[str, Any]) -> None:
    layer, row, query = assign(**case)
    keys = list(zip(layer.tolist(), case["image_of_row"][row].tolist(), query.tolist(), strict=True))
    assert keys == sorted(keys)


def test_large_batches_are_solved_on_threads_with_the_same_result() -> None:
    rng = np.random.default_rng(0)
    cost = rng.normal(size=(4, 120, 600)).astype(np.float32)
    image, repeats = np.repeat(np.arange(4), 30), rng.integers(1, 5, size=(4, 120))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        parallel = assign(cost, repeats, image, Blocks(np.zeros(120, dtype=np.int64), (0, 600)))
        torch.set_num_threads(1)
        serial = assign(cost, repeats, image, Blocks(np.zeros(120, dtype=np.int64), (0, 600)))
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(parallel, serial)


def test_cost_is_the_formula_for_every_pair() -> None:
    outputs, targets = random_case(seed=0, num_layers=2, num_queries=6, relations=(3, 0, 2))
    queries, truth = relation_queries(outputs), relation_truth(join(targets))
    cost = compare(queries, truth, MatchingConfig(cost_class=1.5, cost_l1=3.0, cost_giou=0.5)).cost
    assert cost.shape == (2, 5, 6)
    rows = [(image, m) for image, target in enumerate(targets) for m in range(len(target.relations))]
    for row, (image, m) in enumerate(rows):
        expected = naive_cost(outputs, image, targets[image], m, (1.5, 3.0, 0.5))
        torch.testing.assert_close(cost[:, row], expected, atol=1e-5, rtol=1e-5)


def naive_cost(outputs: LayerOutputs, image: int, target: Target, m: int, weights: tuple[float, ...]) -> Tensor:
    """[L, R] from the formula of method section 6, with the plain box functions."""
    subject, object_, predicate = target.relations[m].tolist()
    elements = (
        (outputs.subject_logits, outputs.subject_boxes, target.classes[subject], target.boxes[subject]),
        (outputs.object_logits, outputs.object_boxes, target.classes[object_], target.boxes[object_]),
        (outputs.predicate_logits, outputs.relation_boxes, predicate, target.relation_boxes[m]),
    )
    cost = torch.zeros(outputs.subject_boxes.shape[0], outputs.subject_boxes.shape[2])
    for logits, boxes, label, box in elements:
        overlap = giou(cxcywh_to_xyxy(boxes[:, image]), cxcywh_to_xyxy(box))
        cost -= weights[0] * logits[:, image].softmax(-1)[..., int(label)]
        cost += weights[1] * (boxes[:, image] - box).abs().sum(-1) - weights[2] * overlap
    return cost


def test_boxes_without_area_have_no_overlap() -> None:
    outputs, targets = random_case(seed=1, num_layers=1, num_queries=3, relations=(1,))
    point = torch.tensor([0.5, 0.5, 0.0, 0.0])
    outputs.subject_boxes[:], targets[0].boxes[:] = point, point
    only_giou = MatchingConfig(cost_class=0.0, cost_l1=0.0, cost_giou=1.0)
    comparison = compare(relation_queries(outputs), relation_truth(join(targets)), only_giou)
    assert comparison.ious[0].tolist() == [[[0.0, 0.0, 0.0]]]
    assert bool(comparison.cost.isfinite().all())


@pytest.mark.parametrize("scheme", ["min", "max", "geometric", "arithmetic"])
@pytest.mark.parametrize("grouped", [False, True])
def test_quality_is_the_formula_of_the_scheme(scheme: Any, grouped: bool) -> None:
    outputs, targets = random_case(seed=2, num_layers=1, num_queries=8, relations=(2,))
    config = MatchingConfig(quality=scheme, predicate_weight=-0.5, max_repeats=3)
    outside = torch.zeros(2, 8, dtype=torch.bool)
    outside[:, 4:] = grouped
    comparison = compare(relation_queries(outputs), relation_truth(join(targets)), MatchingConfig())
    ours = quality(comparison, config, outside if grouped else None)
    for m, (subject, object_, predicate) in enumerate(targets[0].relations.tolist()):
        ends = [
            iou(cxcywh_to_xyxy(boxes[0, 0]), cxcywh_to_xyxy(targets[0].boxes[end])) * ~outside[m]
            for boxes, end in ((outputs.subject_boxes, subject), (outputs.object_boxes, object_))
        ]
        combined = {
            "min": torch.minimum(*ends),
            "max": torch.maximum(*ends),
            "geometric": (ends[0] * ends[1]).sqrt(),
            "arithmetic": (ends[0] + ends[1]) / 2,
        }[scheme]
        expected = combined - 0.5 * outputs.predicate_logits[0, 0].softmax(-1)[:, predicate]
        torch.testing.assert_close(ours[0, m], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(best_sum(ours, 3)[0, m], expected.sort().values[-3:].sum(), atol=1e-5, rtol=1e-5)


def test_repeats_truncate_toward_zero_and_are_at_least_one() -> None:
    sums = torch.tensor([[-1.7, 0.0, 0.99, 1.99, 2.0, 5.3, float("nan")]])
    assert repeats_from_sum(sums).tolist() == [[1, 1, 1, 1, 2, 5, 1]]
    assert best_sum(torch.ones(1, 1, 3), max_repeats=7).item() == 3


def run(
    outputs: LayerOutputs,
    targets: list[Target],
    config: MatchingConfig,
    groups: PredicateGroups | None = None,
    multiple: int = 1,
) -> Assignment:
    return match(outputs, join(targets), config, groups, multiple)


def triples(assignment: Assignment, image: int) -> set[tuple[int, int, int]]:
    """(layer, query, relation) of one image."""
    mine = assignment.image == image
    rows = torch.stack((assignment.layer, assignment.query, assignment.relation))[:, mine]
    return {(layer, query, relation) for layer, query, relation in rows.T.tolist()}


@given(st.integers(0, 10_000), st.lists(st.integers(0, 6), min_size=1, max_size=4), st.booleans())
@settings(max_examples=25, deadline=None)
def test_match_does_not_depend_on_the_order_or_company_of_images(seed: int, counts: list[int], grouped: bool) -> None:
    outputs, targets = random_case(seed, num_layers=2, num_queries=12, relations=counts)
    groups = make_groups(PREDICATE_COUNT, 3, 6) if grouped else None
    together = run(outputs, targets, DYNAMIC, groups, 2)
    order = np.random.default_rng(seed).permutation(len(counts)).tolist()
    moved = run(select(outputs, 1, order), [targets[i] for i in order], DYNAMIC, groups, 2)
    for place, image in enumerate(order):
        alone = run(select(outputs, 1, [image]), [targets[image]], DYNAMIC, groups, 2)
        assert triples(together, image) == triples(moved, place) == triples(alone, 0)
        assert torch.equal(together.repeats[image], moved.repeats[place])


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_match_follows_queries_into_another_order_within_their_group(seed: int, grouped: bool) -> None:
    outputs, targets = random_case(seed, num_layers=2, num_queries=12, relations=(4, 2))
    groups = make_groups(PREDICATE_COUNT, 3, 12) if grouped else None
    bounds = groups.bounds if groups else (0, 12)
    rng = np.random.default_rng(seed)
    order = np.concatenate([first + rng.permutation(end - first) for first, end in pairwise(bounds)])
    plain, moved = (
        run(outputs, targets, DYNAMIC, groups),
        run(select(outputs, 2, order.tolist()), targets, DYNAMIC, groups),
    )
    for image in range(2):
        assert triples(plain, image) == {(layer, int(order[q]), r) for layer, q, r in triples(moved, image)}


@given(st.integers(0, 10_000), st.integers(1, 5), st.lists(st.integers(0, 8), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_match_is_injective_and_within_the_repeats(seed: int, max_repeats: int, counts: list[int]) -> None:
    outputs, targets = random_case(seed, num_layers=2, num_queries=10, relations=counts)
    config = DYNAMIC.model_copy(update={"max_repeats": max_repeats, "predicate_weight": 1.0})
    assignment = run(outputs, targets, config, make_groups(PREDICATE_COUNT, 3, 5), 2)
    for image, repeats in enumerate(assignment.repeats):
        assert repeats.shape == (2, counts[image])
        found = triples(assignment, image)
        assert len({(layer, query) for layer, query, _ in found}) == len(found)
        for layer in range(2):
            per_relation = torch.tensor([r for la, _, r in found if la == layer], dtype=torch.int64)
            matched = per_relation.bincount(minlength=counts[image])
            assert bool((matched <= repeats[layer]).all())
            assert matched.sum() == min(int(repeats[layer].sum()), 10)


def test_a_group_with_enough_queries_keeps_its_relations() -> None:
    outputs, targets = random_case(seed=3, num_layers=2, num_queries=60, relations=(4, 5))
    groups = make_groups(PREDICATE_COUNT, 3, 30)
    assignment = run(outputs, targets, STATIC, groups, 2)
    group_of_query = np.repeat(np.arange(3), [2 * n for n in groups.queries])
    for image, target in enumerate(targets):
        for _, query, relation in triples(assignment, image):
            predicate = int(target.relations[relation, 2])
            assert group_of_query[query] == groups.group_of_predicate[predicate]


@pytest.mark.parametrize("min_queries", [0, 1])
def test_an_overflowing_group_borrows_the_cheapest_queries_of_others(min_queries: int) -> None:
    """With `min_queries=0` the last group has no query at all, so that every relation of it is lent one."""
    counts = [2**n for n in range(6, -1, -1)]
    groups = make_groups(counts, 6, 8, min_queries)
    outputs, targets = random_case(seed=4, num_layers=1, num_queries=8, relations=(6,))
    targets[0].relations[:, 2] = groups.predicates[-2][0]
    blocks = Blocks(np.full(6, 4), groups.bounds)
    cost = compare(relation_queries(outputs), relation_truth(join(targets)), MatchingConfig()).cost[0].numpy()
    full = cost + OUTSIDE_COST * (blocks.group_of_row[:, None] != blocks.group_of_query)
    row, query = linear_sum_assignment(full)
    assignment = run(outputs, targets, STATIC, groups)
    assert triples(assignment, 0) == {(0, q, r) for r, q in zip(row.tolist(), query.tolist(), strict=True)}


def test_without_independence_one_assignment_from_summed_costs_serves_all_layers() -> None:
    outputs, targets = random_case(seed=5, num_layers=3, num_queries=9, relations=(4, 0, 2))
    config = STATIC.model_copy(update={"independent": False, "max_repeats": 2})
    assignment = run(outputs, targets, config)
    cost = compare(relation_queries(outputs), relation_truth(join(targets)), MatchingConfig()).cost.sum(0).numpy()
    row, query = linear_sum_assignment(np.repeat(cost[:4], 2, axis=0))
    expected = {(layer, q, r // 2) for layer in range(3) for r, q in zip(row.tolist(), query.tolist(), strict=True)}
    assert triples(assignment, 0) == expected
    assert assignment.layer.bincount().tolist() == [12, 12, 12]


def test_batches_larger_than_a_chunk_match_as_single_images_do() -> None:
    outputs, targets = random_case(seed=6, num_layers=4, num_queries=400, relations=(30, 0, 25))
    together = run(outputs, targets, STATIC)
    for image in range(3):
        alone = run(select(outputs, 1, [image]), [targets[image]], STATIC)
        assert triples(together, image) == triples(alone, 0)


@pytest.mark.parametrize("config", [STATIC, DYNAMIC])
def test_edges(config: MatchingConfig) -> None:
    none_at_all = run(*random_case(seed=7, num_layers=2, num_queries=4, relations=(0, 0)), config)
    assert none_at_all.query.shape == (0,)
    assert [repeats.shape for repeats in none_at_all.repeats] == [(2, 0), (2, 0)]
    one_box = run(*random_case(seed=7, num_layers=1, num_queries=4, relations=(1,)), config)
    assert set(one_box.relation.tolist()) == {0}
    crowded = run(*random_case(seed=7, num_layers=2, num_queries=3, relations=(8, 1)), config)
    assert [len(triples(crowded, image)) for image in (0,)] == [6]
    one_query = run(*random_case(seed=7, num_layers=1, num_queries=1, relations=(2,)), config)
    assert one_query.query.tolist() == [0]


def test_half_precision_outputs_are_matched_in_float32() -> None:
    outputs, targets = random_case(seed=8, num_layers=2, num_queries=6, relations=(3, 1))
    half = LayerOutputs(**{name: value.bfloat16() for name, value in vars(outputs).items()})
    ours, rounded = run(half, targets, DYNAMIC), run(half.float(), targets, DYNAMIC)
    assert [triples(ours, image) for image in (0, 1)] == [triples(rounded, image) for image in (0, 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["subject_logits", "predicate_logits", "object_boxes", "relation_boxes"])
def test_non_finite_outputs_are_named(name: str, value: float) -> None:
    outputs, targets = random_case(seed=9, num_layers=3, num_queries=4, relations=(2, 3))
    getattr(outputs, name)[1, 1, 2, 0] = value
    with pytest.raises(NonFiniteError, match=f"{name} of decoder layer 2 of 3: .* image 1, query 2"):
        run(outputs, targets, STATIC)


def test_non_finite_targets_are_named() -> None:
    outputs, targets = random_case(seed=9, num_layers=1, num_queries=4, relations=(2, 3))
    targets[1] = replace(targets[1], boxes=torch.full_like(targets[1].boxes, float("nan")))
    with pytest.raises(NonFiniteError, match="target boxes: NaN or infinite at image 1"):
        run(outputs, targets, STATIC)
