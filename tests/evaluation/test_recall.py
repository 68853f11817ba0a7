"""Recalls against their definition written as loops, and their invariants."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speaq.config import ConfigError, EvaluationConfig
from speaq.evaluation.protocol import PROTOCOLS, Protocol, common_protocol, protocol_name
from speaq.evaluation.recall import RecallEvaluator, RecallResult, head_body_tail
from speaq.evaluation.table import NEVER
from speaq.evaluation.triplets import apply_mode, match, unconstrained
from speaq.structures import SceneGraph, ScenePrediction
from tests.golden.g4 import rescale

NUM_CLASSES, NUM_PREDICATES = 3, 4
CONFIG = EvaluationConfig(recall_at=(2, 5, 20))
Scene = tuple[SceneGraph, ScenePrediction]


def make_scene(rng: np.random.Generator, num_rows: int = 5, num_triplets: int = 25, same_boxes: bool = False) -> Scene:
    """Predictions near the truth; duplicate rows, tied scores and boxes that meet nothing occur."""
    num = 4
    corner = rng.integers(0, 30, (num, 2))
    boxes = np.concatenate((corner, corner + rng.integers(5, 40, (num, 2))), axis=1).astype(np.float32)
    classes = rng.integers(0, NUM_CLASSES, num)
    relations = np.column_stack((rng.integers(0, num, (num_rows, 2)), rng.integers(0, NUM_PREDICATES, num_rows)))
    graph = SceneGraph("7", (80, 90), boxes, classes, relations)
    source = np.arange(num) if same_boxes else rng.integers(0, num, 9)
    noise = 0 if same_boxes else rng.normal(scale=3, size=(len(source), 4))
    scores = rng.integers(1, 4, (num_triplets, NUM_PREDICATES + 1)).astype(np.float32) / 8
    prediction = ScenePrediction(
        boxes_xyxy=(boxes[source] + noise).astype(np.float32),
        classes=classes[source],
        scores=rng.integers(1, 5, len(source)).astype(np.float32) / 5,
        pairs=rng.integers(0, len(source), (num_triplets, 2)),
        predicates=rng.integers(0, NUM_PREDICATES, num_triplets),
        triplet_scores=np.zeros(num_triplets, dtype=np.float32),
        predicate_scores=scores,
        query_index=np.arange(num_triplets) // 2,
    )
    return graph, prediction


def make_scenes(seed: int, num: int = 8, **options) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [make_scene(rng, num_rows=int(rng.integers(0, 7)), **options) for _ in range(num)]


def without_triplets(prediction: ScenePrediction) -> ScenePrediction:
    names = ("pairs", "predicates", "triplet_scores", "predicate_scores", "query_index")
    return replace(prediction, **{name: getattr(prediction, name)[:0] for name in names})


def evaluate(scenes: list[Scene], config: EvaluationConfig = CONFIG, **options) -> RecallResult:
    evaluator = RecallEvaluator(NUM_PREDICATES, config, **options)
    for index, scene in enumerate(scenes):
        evaluator.add(index, *scene)
    return evaluator.result()


def overlap(a, b) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (area - inter) if area > inter else 0.0


def union_box(a, b) -> tuple[float, ...]:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def found_rows(graph: SceneGraph, prediction: ScenePrediction, triplets, phrase: bool = False) -> set[int]:
    """Ground-truth rows that a list of (subject box, object box, predicate) finds."""
    rows = set()
    for s, o, p in triplets:
        for row, (gs, go, gp) in enumerate(graph.relations):
            labels = (prediction.classes[s], p, prediction.classes[o]) == (graph.classes[gs], gp, graph.classes[go])
            ours, theirs = prediction.boxes_xyxy[[s, o]].tolist(), graph.boxes_xyxy[[gs, go]].tolist()
            if phrase:
                near = overlap(union_box(*ours), union_box(*theirs)) >= 0.5
            else:
                near = all(overlap(a, b) >= 0.5 for a, b in zip(ours, theirs, strict=True))
            if labels and near:
                rows.add(row)
    return rows


def first_of_each(items, key) -> list:
    """The items whose key no earlier one has."""
    kept = {}
    for item in items:
        kept.setdefault(key(item), item)
    return list(kept.values())


def plain_metrics(
    scenes: list[Scene], k: int, zero_shot, phrase: bool = False, protocol: Protocol = "published"
) -> dict[str, float]:
    """The definitions of method section 10 and of the protocols, one loop after the other."""
    recall, unconstrained_recall, zero, per_predicate = [], [], [], [[] for _ in range(NUM_PREDICATES)]
    found, unconstrained_found, unconstrained_per_predicate = [], [], [[] for _ in range(NUM_PREDICATES)]
    zero_set = {tuple(t) for t in zero_shot.tolist()}
    for graph, prediction in scenes:
        if not len(graph.relations) or (not len(prediction.pairs) and protocol != "strict"):
            continue
        triplets = np.column_stack((prediction.pairs, prediction.predicates)).tolist()
        listed = list(enumerate(triplets))
        if protocol == "strict":
            listed = first_of_each(listed, lambda item: tuple(item[1][:2]))
        if protocol == "per_query":
            listed = first_of_each(listed, lambda item, query=prediction.query_index: query[item[0]])
        rows = found_rows(graph, prediction, [triplet for _, triplet in listed[:k]], phrase)
        recall.append(len(rows) / len(graph.relations))
        found += [row in rows for row in range(len(graph.relations))]
        combinations = [
            (-prediction.scores[s] * prediction.scores[o] * prediction.predicate_scores[t, p], t, p, s, o)
            for t, (s, o, _) in enumerate(triplets)
            for p in range(NUM_PREDICATES)
        ]
        best = [(s, o, p) for _, _, p, s, o in sorted(combinations)]
        if protocol == "strict":
            best = first_of_each(best, lambda triplet: triplet)
        unconstrained_rows = found_rows(graph, prediction, best[: min(k, 100)], phrase)
        unconstrained_recall.append(len(unconstrained_rows) / len(graph.relations))
        unconstrained_found += [row in unconstrained_rows for row in range(len(graph.relations))]
        labels = [(graph.classes[s], graph.classes[o], p) for s, o, p in graph.relations]
        unseen = [row for row, label in enumerate(labels) if label in zero_set]
        if unseen:
            zero.append(len(rows & set(unseen)) / len(unseen))
        for p in range(NUM_PREDICATES):
            of_p = set(np.flatnonzero(graph.relations[:, 2] == p).tolist())
            if of_p:
                per_predicate[p].append(len(rows & of_p) / len(of_p))
                unconstrained_per_predicate[p].append(len(unconstrained_rows & of_p) / len(of_p))
    mean = mean_recall(per_predicate)
    r = float(np.mean(recall))
    harmonic = 2 * r * mean / (r + mean) if r + mean else 0.0
    values = {"R": r, "ngR": float(np.mean(unconstrained_recall)), "mR": mean, "F": harmonic}
    values |= {"R_dataset": np.mean(found), "mR_present": mean_recall([part for part in per_predicate if part])}
    unconstrained_present = [part for part in unconstrained_per_predicate if part]
    values |= {"ngR_dataset": np.mean(unconstrained_found), "ngmR": mean_recall(unconstrained_per_predicate)}
    values |= {"ngmR_present": mean_recall(unconstrained_present)}
    return values | ({"zR": float(np.mean(zero))} if zero else {})


def mean_recall(per_predicate: list[list[float]]) -> float:
    return float(np.mean([np.mean(values) if values else 0.0 for values in per_predicate]))


ZERO_SHOT = np.array([[0, 0, 0], [1, 2, 3], [2, 1, 1], [0, 1, 2], [2, 2, 2]])


@pytest.mark.parametrize("mode", ["sgdet", "phrase"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition(seed: int, protocol: Protocol, mode) -> None:
    scenes = make_scenes(seed, num_triplets=60)
    for place, scene in enumerate(scenes):  # one predicate that no image has: mR and mR_present differ
        relations = scene[0].relations
        scenes[place] = (replace(scene[0], relations=relations[relations[:, 2] != 1]), scene[1])
    scenes[2] = (make_scene(np.random.default_rng(seed))[0], without_triplets(scenes[2][1]))
    result = evaluate(scenes, under(protocol), zero_shot=ZERO_SHOT, mode=mode)
    metrics = result.metrics | result.averages
    for k in CONFIG.recall_at:
        for name, value in plain_metrics(scenes, k, ZERO_SHOT, mode == "phrase", protocol).items():
            assert metrics[f"{name}@{k}"] == pytest.approx(value, abs=1e-12), f"{name}@{k}"
    assert result.metrics["R@20"] > 0, "nothing was found: the test says nothing"


def under(protocol: Protocol, **changes) -> EvaluationConfig:
    return CONFIG.model_copy(update={"protocol": protocol, **changes})


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), protocol=st.sampled_from(PROTOCOLS))
def test_recall_rises_with_k(seed: int, protocol: Protocol) -> None:
    ks = (1, 2, 3, 8, 25, 60)
    result = evaluate(make_scenes(seed), under(protocol, recall_at=ks), zero_shot=ZERO_SHOT)
    metrics = result.metrics | result.averages
    for name in ("R", "ngR", "mR", "F", "zR", "R_dataset", "mR_present", "ngR_dataset", "ngmR", "ngmR_present"):
        values = [metrics[f"{name}@{k}"] for k in ks if f"{name}@{k}" in metrics]
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**31),
    order=st.permutations(range(8)),
    cut=st.integers(1, 7),
    protocol=st.sampled_from(PROTOCOLS),
)
def test_order_of_images_and_workers_do_not_matter(seed: int, order: list[int], cut: int, protocol: Protocol) -> None:
    scenes = make_scenes(seed)
    scenes[3] = (scenes[3][0], without_triplets(scenes[3][1]))
    config, counts = under(protocol), np.arange(NUM_PREDICATES + 1)
    whole = evaluate(scenes, config, zero_shot=ZERO_SHOT, predicate_count=counts)
    parts = [RecallEvaluator(NUM_PREDICATES, config, ZERO_SHOT, counts) for _ in range(2)]
    for position, index in enumerate(order):
        parts[position >= cut].add(index, *scenes[index])
    parts[0].add(order[-1], *scenes[order[-1]])  # padding: an image that both workers saw
    received = pickle.loads(pickle.dumps(parts))
    merged = RecallEvaluator.merge(received).result()
    assert merged.metrics == whole.metrics
    assert merged.averages == whole.averages
    assert merged.images_evaluated == whole.images_evaluated


def test_an_image_counts_once() -> None:
    scene = make_scene(np.random.default_rng(0))
    evaluator = RecallEvaluator(NUM_PREDICATES, CONFIG)
    evaluator.add(4, *scene)
    evaluator.add(4, scene[0], without_triplets(scene[1]))
    assert evaluator.result().images_evaluated == 1
    assert evaluator.result().images_without_predictions == 0


def test_images_without_predictions_are_skipped_or_count_zero() -> None:
    scenes = [perfect([(0, 1, 2), (1, 0, 3)]), make_scene(np.random.default_rng(2))]
    scenes[1] = (scenes[1][0], without_triplets(scenes[1][1]))
    results = {protocol: evaluate(scenes, under(protocol)) for protocol in PROTOCOLS}
    for protocol in ("published", "per_query"):
        skipped = results[protocol]
        assert skipped.metrics["R@20"] == evaluate(scenes[:1], under(protocol)).metrics["R@20"] == 1
        assert (skipped.images_evaluated, skipped.images_skipped_without_predictions) == (1, 1)
    strict = results["strict"]
    assert strict.metrics["R@20"] == strict.metrics["ngR@20"] == 0.5
    assert strict.averages["R_dataset@20"] == 2 / (2 + len(scenes[1][0].relations))
    assert (strict.images_evaluated, strict.images_skipped_without_predictions) == (2, 0)
    assert strict.images_without_predictions == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_image_with_predictions(protocol: Protocol) -> None:
    graph, prediction = make_scene(np.random.default_rng(1))
    result = evaluate([(graph, without_triplets(prediction))], under(protocol), zero_shot=ZERO_SHOT)
    assert result.images_evaluated == (protocol == "strict")
    assert set(result.metrics.values()) | set(result.averages.values()) == {0.0}


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31))
def test_protocols_are_ordered(seed: int) -> None:
    """What is left out finds nothing more (at a K that holds all), what is not repeated makes room."""
    scenes = make_scenes(seed, num_triplets=40)
    published, strict, per_query = (evaluate(scenes, under(p, recall_at=(3, 10, 40))) for p in PROTOCOLS)
    for name in ("R", "mR"):
        assert strict.metrics[f"{name}@40"] <= published.metrics[f"{name}@40"]
        assert per_query.metrics[f"{name}@40"] <= published.metrics[f"{name}@40"]
    for k in (3, 10, 40):
        assert strict.metrics[f"ngR@{k}"] >= published.metrics[f"ngR@{k}"] == per_query.metrics[f"ngR@{k}"]
        assert strict.averages[f"ngmR@{k}"] >= published.averages[f"ngmR@{k}"]


def test_protocols_say_what_differs() -> None:
    names = [(r.protocol, r.unconstrained_protocol) for r in (evaluate([], under(p)) for p in PROTOCOLS)]
    assert names == [
        ("sgdet published", "sgdet ng"),
        ("sgdet strict", "sgdet ng-unique"),
        ("sgdet per-query", "sgdet ng"),
    ]
    other = under("strict", iou_threshold=0.7, zero_shot="recompute")
    assert protocol_name(other, "phrase") == "phrase strict iou=0.7 zs=recomputed"
    assert common_protocol([None, "a", "a"]) == "a"
    assert common_protocol([None]) is None
    with pytest.raises(ConfigError, match="'sgdet published' and 'sgdet strict'"):
        common_protocol(["sgdet published", None, "sgdet strict"])


def test_images_without_rows_do_not_count() -> None:
    graph, prediction = make_scene(np.random.default_rng(1), num_rows=0)
    result = evaluate([(graph, prediction)])
    assert result.images_evaluated == 0
    assert result.metrics["R@2"] == result.metrics["mR@2"] == result.metrics["F@2"] == 0.0


def test_no_image_at_all() -> None:
    result = RecallEvaluator(NUM_PREDICATES, CONFIG, ZERO_SHOT, np.ones(NUM_PREDICATES + 1)).result()
    assert set(result.metrics.values()) == {0.0}
    assert not any(name.startswith("zR") for name in result.metrics)


def perfect(rows: list[tuple[int, int, int]]) -> Scene:
    """Two far boxes of classes 0 and 1, and a prediction that names every row once, in order."""
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], dtype=np.float32)
    relations = np.array(rows)
    graph = SceneGraph("1", (50, 50), boxes, np.array([0, 1]), relations)
    scores = np.eye(NUM_PREDICATES + 1, dtype=np.float32)[relations[:, 2]]
    zeros, ones = np.zeros(len(rows), dtype=np.float32), np.ones(2, dtype=np.float32)
    prediction = ScenePrediction(
        boxes, np.array([0, 1]), ones, relations[:, :2], relations[:, 2], zeros, scores, np.arange(len(rows))
    )
    return graph, prediction


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_duplicate_rows_count_separately_and_one_triplet_finds_both(protocol: Protocol) -> None:
    graph, prediction = perfect([(0, 1, 2), (1, 0, 3)])
    graph = replace(graph, relations=np.array([[0, 1, 2], [0, 1, 2], [1, 0, 1]]))
    metrics = evaluate([(graph, prediction)], under(protocol, recall_at=(1,))).metrics
    assert metrics["R@1"] == pytest.approx(2 / 3)
    assert metrics["mR@1"] == pytest.approx(1 / NUM_PREDICATES)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_fewer_candidates_than_k(protocol: Protocol) -> None:
    metrics = evaluate([perfect([(0, 1, 2), (1, 0, 3)])], under(protocol, recall_at=(1, 100, 500))).metrics
    assert [metrics[f"R@{k}"] for k in (1, 100, 500)] == [0.5, 1.0, 1.0]
    assert metrics["ngR@500"] == 1.0


def test_labels_swapped_roles_and_missed_boxes_do_not_match() -> None:
    graph, prediction = perfect([(0, 1, 2)])
    for wrong in (
        replace(prediction, pairs=prediction.pairs[:, ::-1]),
        replace(prediction, classes=np.array([0, 2])),
        replace(prediction, predicates=np.array([1])),
        replace(prediction, boxes_xyxy=prediction.boxes_xyxy + np.float32(9)),
    ):
        position, _ = match(graph, wrong, wrong.pairs, wrong.predicates, 0.5)
        assert len(position) == 0


def test_iou_at_the_threshold_matches_and_empty_boxes_do_not() -> None:
    graph, prediction = perfect([(0, 1, 2)])
    half = prediction.boxes_xyxy.copy()
    half[0] = (0, 0, 10, 5)  # IoU 0.5 exactly
    at = replace(prediction, boxes_xyxy=half)
    assert len(match(graph, at, at.pairs, at.predicates, 0.5)[0]) == 1
    assert len(match(graph, at, at.pairs, at.predicates, 0.51)[0]) == 0
    empty = replace(graph, boxes_xyxy=np.zeros_like(graph.boxes_xyxy))
    assert len(match(empty, replace(prediction, boxes_xyxy=empty.boxes_xyxy), at.pairs, at.predicates, 0.5)[0]) == 0


@pytest.mark.parametrize("k", [1, 7, 24, 99, 100, 1000])
def test_unconstrained_order_with_ties(k: int) -> None:
    _, prediction = make_scene(np.random.default_rng(3))
    rows, predicates = unconstrained(prediction, k)
    scores = prediction.scores[prediction.pairs].prod(axis=1)[:, None] * prediction.predicate_scores[:, :-1]
    order = sorted(np.ndindex(*scores.shape), key=lambda place: (-scores[place], place))
    assert list(zip(rows.tolist(), predicates.tolist(), strict=True)) == order[:k]
    rows, predicates = unconstrained(prediction, k, unique=True)
    unique = first_of_each(order, lambda place: (*prediction.pairs[place[0]].tolist(), place[1]))
    assert len(unique) < len(order)
    assert list(zip(rows.tolist(), predicates.tolist(), strict=True)) == unique[:k]


def test_predcls_gives_boxes_and_labels_away() -> None:
    graph, prediction = make_scene(np.random.default_rng(5), same_boxes=True)
    wrong = replace(prediction, classes=(graph.classes + 1) % NUM_CLASSES)
    right = replace(prediction, classes=graph.classes)
    assert evaluate([(graph, wrong)], mode="predcls").metrics == evaluate([(graph, right)], mode="predcls").metrics
    assert evaluate([(graph, wrong)], mode="sgcls").metrics["R@20"] == 0
    assert np.array_equal(apply_mode(graph, wrong, "sgdet").classes, wrong.classes)
    with pytest.raises(ValueError, match="image 7: needs the 4 ground-truth boxes, found 3"):
        evaluate([(graph, replace(wrong, boxes_xyxy=wrong.boxes_xyxy[:3]))], mode="predcls")


def test_pair_accuracy_ranks_among_true_pairs_only() -> None:
    graph, prediction = perfect([(0, 1, 2)])
    pairs = np.array([[1, 0]] * 5 + [[0, 1]])
    predicates = np.full(6, 2)
    scores = np.repeat(prediction.predicate_scores, 6, axis=0)
    padded = replace(prediction, pairs=pairs, predicates=predicates, predicate_scores=scores)
    metrics = evaluate([(graph, padded)], EvaluationConfig(recall_at=(1, 6)), mode="predcls").metrics
    assert (metrics["R@1"], metrics["R@6"], metrics["A@1"]) == (0.0, 1.0, 1.0)
    assert "A@1" not in evaluate([(graph, padded)], EvaluationConfig(recall_at=(1,))).metrics


def test_head_body_and_tail_are_thirds_by_frequency() -> None:
    counts = np.array([5, 9, 1, 7, 0, 7])
    assert [part.tolist() for part in head_body_tail(counts)] == [[1, 3], [5, 0], [2, 4]]
    assert [len(part) for part in head_body_tail(np.arange(50))] == [16, 17, 17]
    for num in range(1, 60):
        parts = head_body_tail(np.random.default_rng(num).integers(0, 9, num))
        assert sorted(np.concatenate(parts).tolist()) == list(range(num))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_mean_recall_is_made_of_its_thirds() -> None:
    counts = np.array([3, 9, 4, 1, 0])
    result = evaluate(make_scenes(11), predicate_count=counts)
    for k in CONFIG.recall_at:
        parts = zip(("head", "body", "tail"), result.thirds, strict=True)
        total = sum(result.metrics[f"{name}@{k}"] * len(part) for name, part in parts)
        assert total / NUM_PREDICATES == pytest.approx(result.metrics[f"mR@{k}"])


def test_rows_that_nothing_finds_have_no_rank() -> None:
    graph, prediction = perfect([(0, 1, 2), (1, 0, 3)])
    evaluator = RecallEvaluator(NUM_PREDICATES, CONFIG)
    evaluator.add(0, replace(graph, relations=np.array([[1, 0, 3], [0, 1, 1], [0, 1, 2]])), prediction)
    assert evaluator.table().rows.rank.tolist() == [1, NEVER, 0]


def test_rescaling_scales_and_clips() -> None:
    graph, _ = perfect([(0, 1, 2)])
    ours = rescale(replace(graph, boxes_xyxy=graph.boxes_xyxy + np.float32(15)), (100, 25))
    assert ours.size_hw == (100, 25)
    np.testing.assert_allclose(ours.boxes_xyxy, [[7.5, 30, 12.5, 50], [17.5, 70, 25, 100]])
