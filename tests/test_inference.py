"""Decoding against a plain loop over boxes, and what it promises on batches, empty boxes and NaN."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speaq.boxes import cxcywh_to_xyxy, iou
from speaq.config import InferenceConfig
from speaq.inference import decode, decode_detections
from speaq.structures import LayerOutputs, ScenePrediction

SIZES = [(60, 80), (100, 50), (33, 47)]


def make_outputs(seed: int, num_images: int = 3, num_queries: int = 12, num_layers: int = 2) -> LayerOutputs:
    """Few classes and large boxes, so that suppression and re-pointing have work."""
    generator = torch.Generator().manual_seed(seed)

    def logits(num: int) -> torch.Tensor:
        return 2 * torch.randn(num_layers, num_images, num_queries, num, generator=generator)

    def boxes() -> torch.Tensor:
        shape = (num_layers, num_images, num_queries, 2)
        centre, size = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
        return torch.cat((0.3 + 0.4 * centre, 0.3 + 0.4 * size), dim=-1)

    return LayerOutputs(logits(4), logits(4), logits(6), boxes(), boxes(), boxes())


def map_images(outputs: LayerOutputs, change) -> LayerOutputs:
    return LayerOutputs(**{f.name: change(getattr(outputs, f.name)) for f in fields(outputs)})


def plain_decode(outputs: LayerOutputs, image: int, size_hw: tuple[int, int], config: InferenceConfig):
    """Boxes as (class, score, corners) and triplets as (box number, box number, predicate, score, query)."""
    height, width = size_hw
    scale = torch.tensor([width, height, width, height])
    boxes, queries = [], []
    subject, object_, predicate = (
        getattr(outputs, f"{name}_logits")[config.layer, image].softmax(-1)[:, :-1]
        for name in ("subject", "object", "predicate")
    )
    for probabilities, xywh in ((subject, outputs.subject_boxes), (object_, outputs.object_boxes)):
        for q, corners in enumerate(cxcywh_to_xyxy(xywh[config.layer, image])):
            boxes.append((int(probabilities[q].argmax()), float(probabilities[q].max()), corners))
    kept = []
    for box in sorted(boxes, key=lambda b: -b[1]):
        if all(k[0] != box[0] or iou(k[2], box[2]) <= config.nms_threshold for k in kept):
            kept.append(box)

    def pointed(box) -> int:
        same = [i for i, k in enumerate(kept) if k[0] == box[0]]
        return max(same, key=lambda i: float(iou(kept[i][2], box[2])))

    num = len(subject)
    for q in range(num):
        for p in predicate[q].topk(config.predictions_per_query).indices.tolist():
            score = float(subject[q].max() * object_[q].max() * predicate[q, p])
            queries.append((pointed(boxes[q]), pointed(boxes[num + q]), p, score, q))
    triplets, seen = [], set()
    for triplet in sorted(queries, key=lambda t: -t[3]):
        if triplet[:3] not in seen:
            seen.add(triplet[:3])
            triplets.append(triplet)
    corners = [torch.minimum((k[2] * scale).clamp(min=0), scale) for k in kept]
    return [(k[0], k[1], c) for k, c in zip(kept, corners, strict=True)], triplets


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("per_query", "threshold", "layer"), [(1, 0.5, -1), (3, 0.3, 0)])
def test_equals_a_plain_loop(seed: int, per_query: int, threshold: float, layer: int) -> None:
    outputs = make_outputs(seed)
    config = InferenceConfig(nms_threshold=threshold, predictions_per_query=per_query, layer=layer)
    for image, scene in enumerate(decode(outputs, SIZES, config)):
        boxes, triplets = plain_decode(outputs, image, SIZES[image], config)
        assert len(boxes) < 2 * outputs.subject_boxes.shape[2], "suppression had no work"
        assert scene.classes.tolist() == [b[0] for b in boxes]
        np.testing.assert_allclose(scene.scores, [b[1] for b in boxes], rtol=1e-5)
        np.testing.assert_allclose(scene.boxes_xyxy, np.stack([b[2] for b in boxes]), atol=1e-4)
        named = np.column_stack((scene.pairs, scene.predicates))
        assert named.tolist() == [list(t[:3]) for t in triplets]
        np.testing.assert_allclose(scene.triplet_scores, [t[3] for t in triplets], rtol=1e-5)
        assert scene.query_index.tolist() == [t[4] for t in triplets]


def assert_equal(a: ScenePrediction, b: ScenePrediction) -> None:
    for f in fields(ScenePrediction):
        np.testing.assert_array_equal(getattr(a, f.name), getattr(b, f.name), err_msg=f.name)


def test_a_batch_equals_its_images_alone() -> None:
    outputs = make_outputs(7)
    for image, scene in enumerate(decode(outputs, SIZES, InferenceConfig(predictions_per_query=2))):
        alone = map_images(outputs, lambda t, i=image: t[:, i : i + 1])
        assert_equal(scene, decode(alone, SIZES[image : image + 1], InferenceConfig(predictions_per_query=2))[0])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(12)))
def test_the_order_of_queries_does_not_matter(seed: int, order: list[int]) -> None:
    outputs = make_outputs(seed, num_images=1)
    permuted = map_images(outputs, lambda t: t[:, :, order])
    ours, theirs = (decode(o, SIZES[:1], InferenceConfig())[0] for o in (outputs, permuted))
    np.testing.assert_array_equal(np.array(order)[theirs.query_index], ours.query_index)
    for name in ("boxes_xyxy", "classes", "scores", "pairs", "predicates", "triplet_scores"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), shift=st.floats(-1.5, 1.5), per_query=st.integers(1, 5))
def test_promises_hold_for_boxes_beyond_the_image(seed: int, shift: float, per_query: int) -> None:
    outputs = make_outputs(seed)
    moved = replace(outputs, subject_boxes=outputs.subject_boxes + torch.tensor([shift, 0, 0, 0]))
    for scene, (height, width) in zip(
        decode(moved, SIZES, InferenceConfig(predictions_per_query=per_query)), SIZES, strict=True
    ):
        boxes = scene.boxes_xyxy
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (np.diff(scene.triplet_scores) <= 0).all()
        assert (np.diff(scene.scores) <= 0).all()
        named = np.column_stack((scene.pairs, scene.predicates))
        assert len(np.unique(named, axis=0)) == len(named)
        assert scene.pairs.size == 0 or scene.pairs.max() < len(boxes)


def test_triplets_of_empty_boxes_go_and_pairs_are_renumbered() -> None:
    outputs = make_outputs(3, num_images=1, num_queries=4, num_layers=1)
    classes = torch.eye(4)[[0, 1, 2, 0]] * 9  # subject classes of the four queries
    boxes = torch.tensor([[0.2, 0.2, 0.0, 0.3], [0.5, 0.5, 0.2, 0.2], [1.5, 0.5, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2]])
    outputs = replace(outputs, subject_logits=classes[None, None], subject_boxes=boxes[None, None])
    scene = decode(outputs, SIZES[:1], InferenceConfig())[0]
    whole = plain_decode(outputs, 0, SIZES[0], InferenceConfig())
    filled = [bool((c[2:] > c[:2]).all()) for _, _, c in whole[0]]
    assert filled.count(False) == 2
    left = [t for t in whole[1] if filled[t[0]] and filled[t[1]]]
    assert len(left) == len(scene.pairs) == 2
    for (subject, object_, *_), pair in zip(left, scene.pairs, strict=True):
        np.testing.assert_allclose(scene.boxes_xyxy[pair[0]], whole[0][subject][2], atol=1e-4)
        np.testing.assert_allclose(scene.boxes_xyxy[pair[1]], whole[0][object_][2], atol=1e-4)


def plain_pairwise(scene: ScenePrediction, threshold: float) -> list[int]:
    """Rows that stay, one after the other against those that stayed before."""
    stays: list[int] = []
    boxes = torch.from_numpy(scene.boxes_xyxy)
    for row, (subject, object_) in enumerate(scene.pairs):
        label = (scene.classes[subject], scene.classes[object_], scene.predicates[row])
        for better in stays:
            s, o = scene.pairs[better]
            same = (scene.classes[s], scene.classes[o], scene.predicates[better]) == label
            if same and float(iou(boxes[subject], boxes[s]) * iou(boxes[object_], boxes[o])) > threshold:
                break
        else:
            stays.append(row)
    return stays


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    threshold=st.sampled_from([0.05, 0.15, 0.3, 0.6]),
    merge=st.sampled_from([0.7, 1.0]),
    per_query=st.sampled_from([1, 4]),
    num_labels=st.integers(1, 4),
)
def test_pairwise_suppression_equals_a_double_loop(
    seed: int, threshold: float, merge: float, per_query: int, num_labels: int
) -> None:
    outputs = make_outputs(seed, num_queries=20)
    few = torch.zeros(4)
    few[num_labels:] = -50.0  # the last is background
    inside = torch.tensor([1.0, 1.0, 0.8, 0.8])  # clipping comes later and would change the loop's overlaps
    changes = {f"{side}_logits": getattr(outputs, f"{side}_logits") + few for side in ("subject", "object")}
    changes |= {f"{side}_boxes": getattr(outputs, f"{side}_boxes") * inside for side in ("subject", "object")}
    outputs = replace(outputs, **changes)
    config = InferenceConfig(nms_threshold=merge, predictions_per_query=per_query)
    before = decode(outputs, SIZES, config)
    after = decode(outputs, SIZES, config.model_copy(update={"pairwise_nms": threshold}))
    for all_, left in zip(before, after, strict=True):
        stays = plain_pairwise(all_, threshold)
        for name in ("pairs", "predicates", "triplet_scores", "predicate_scores", "query_index"):
            np.testing.assert_array_equal(getattr(left, name), getattr(all_, name)[stays], err_msg=name)
        np.testing.assert_array_equal(left.boxes_xyxy, all_.boxes_xyxy)


def test_pairwise_suppression_goes_down_a_chain() -> None:
    """Equal queries with boxes that drift: the second goes, so the third, which only the second overlaps, stays."""
    outputs = make_outputs(0, num_images=1, num_queries=12, num_layers=1)
    logits = {f.name: getattr(outputs, f.name)[:, :, :1].expand(-1, -1, 12, -1) for f in fields(outputs)[:3]}
    box = torch.tensor([0.2, 0.2, 0.2, 0.2]).expand(1, 1, 12, 4)
    drift = torch.arange(12.0)[:, None] * torch.tensor([0.05, 0, 0, 0])
    chain = LayerOutputs(**logits, subject_boxes=box + drift, object_boxes=box + drift, relation_boxes=box)
    config = InferenceConfig(nms_threshold=1.0, pairwise_nms=0.3)  # neighbours reach 0.36, ties go to the lower query
    assert decode(chain, SIZES[:1], config)[0].query_index.tolist() == [0, 2, 4, 6, 8, 10]
    without = decode(chain, SIZES[:1], InferenceConfig(nms_threshold=1.0))[0]
    assert without.query_index.tolist() == list(range(12))


def test_only_empty_boxes_give_an_empty_scene() -> None:
    outputs = make_outputs(0)
    away = torch.tensor([5.0, 5.0, 0.0, 0.0])
    moved = replace(outputs, subject_boxes=outputs.subject_boxes + away, object_boxes=outputs.object_boxes + away)
    for scene in decode(moved, SIZES, InferenceConfig()):
        assert scene.boxes_xyxy.shape == (0, 4)
        assert scene.pairs.shape == (0, 2)
        assert scene.predicate_scores.shape == (0, 6)


def test_arrays_have_the_documented_types() -> None:
    scene = decode(make_outputs(1), SIZES, InferenceConfig())[0]
    assert scene.boxes_xyxy.dtype == scene.scores.dtype == scene.predicate_scores.dtype == np.float32
    assert scene.classes.dtype == scene.pairs.dtype == scene.query_index.dtype == np.int64
    np.testing.assert_allclose(scene.predicate_scores.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["subject_logits", "predicate_logits", "object_boxes"])
def test_nan_is_refused(name: str) -> None:
    outputs = make_outputs(2)
    broken = getattr(outputs, name).clone()
    broken[-1, 1, 3, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        decode(replace(outputs, **{name: broken}), SIZES, InferenceConfig())


def test_more_predictions_than_predicates_are_refused() -> None:
    with pytest.raises(ValueError, match="predictions_per_query 6 exceeds the 5 predicates"):
        decode(make_outputs(2), SIZES, InferenceConfig(predictions_per_query=6))


def test_detections_are_the_best_class_of_each_query() -> None:
    outputs = make_outputs(5)
    logits, boxes = outputs.subject_logits[-1], outputs.subject_boxes[-1]
    boxes = boxes.clone()
    boxes[0, 2] = torch.tensor([2.0, 2.0, 0.1, 0.1])  # outside
    found = decode_detections(logits, boxes, SIZES)
    assert [len(d.scores) for d in found] == [11, 12, 12]
    for image, (xyxy, classes, scores) in enumerate(found[1:], start=1):
        probabilities = logits[image].softmax(-1)[:, :-1]
        best, label = probabilities.max(-1)
        order = best.argsort(descending=True)
        np.testing.assert_allclose(scores, best[order], rtol=1e-6)
        np.testing.assert_array_equal(classes, label[order])
        height, width = SIZES[image]
        pixels = cxcywh_to_xyxy(boxes[image][order]) * torch.tensor([width, height, width, height])
        limit = torch.tensor([width, height] * 2)
        np.testing.assert_allclose(xyxy, torch.minimum(pixels.clamp(min=0), limit), atol=1e-4)


@pytest.mark.parametrize("exponents", [(2.0, 1.0, 0.5), (0.0, 0.0, 1.0), (1.0, 0.5, 0.0)])
def test_exponents_weigh_the_three_probabilities(exponents: tuple[float, float, float]) -> None:
    outputs = make_outputs(3)
    names = ("subject", "object", "predicate")
    config = InferenceConfig(**{f"{name}_exponent": e for name, e in zip(names, exponents, strict=True)})
    for image, scene in enumerate(decode(outputs, SIZES, config)):
        best = [getattr(outputs, f"{name}_logits")[-1, image].softmax(-1)[:, :-1].max(-1).values for name in names]
        wanted = torch.stack([score**e for score, e in zip(best, exponents, strict=True)]).prod(0)
        np.testing.assert_allclose(scene.triplet_scores, wanted[scene.query_index], rtol=1e-5)
        assert (np.diff(scene.triplet_scores) <= 0).all()


def test_logit_adjustment_favours_rare_predicates_by_their_share() -> None:
    outputs, tau = make_outputs(4), 0.7
    counts = np.array([900, 80, 15, 4, 0, 0])  # the last is no-relation's, which is not looked at
    shares = torch.tensor((counts[:-1] + 1) / (counts[:-1] + 1).sum())
    moved = outputs.predicate_logits.clone()
    moved[..., :-1] -= (tau * shares.log()).float()
    ours = decode(outputs, SIZES, InferenceConfig(logit_adjustment=tau), counts)
    theirs = decode(replace(outputs, predicate_logits=moved), SIZES, InferenceConfig())
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one, other)
    with pytest.raises(ValueError, match=r"logit_adjustment needs the predicate counts"):
        decode(outputs, SIZES, InferenceConfig(logit_adjustment=tau))


def test_exponents_that_rank_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing ranks triplets"):
        InferenceConfig(subject_exponent=0.0, object_exponent=0.0, predicate_exponent=0.0)
