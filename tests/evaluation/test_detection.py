"""Box AP: equal to the library on all classes at once, and on cases with a known answer."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from speaq.evaluation.detection import DetectionEvaluator
from speaq.structures import SceneGraph


def make_image(rng: np.random.Generator, num_true: int, num_found: int):
    corner = rng.random((num_true, 2)) * 60
    boxes = np.concatenate((corner, corner + 5 + rng.random((num_true, 2)) * 40), axis=1).astype(np.float32)
    classes = rng.integers(0, 4, num_true)
    graph = SceneGraph("1", (120, 120), boxes, classes, np.zeros((0, 3), dtype=np.int64))
    source = rng.integers(0, num_true, num_found) if num_true else np.zeros(0, dtype=np.int64)
    found = (boxes[source] + rng.normal(scale=2, size=(len(source), 4))).astype(np.float32)
    labels = np.where(rng.random(len(source)) < 0.8, classes[source], rng.integers(0, 6, len(source)))
    return graph, found, labels, rng.random(len(source)).astype(np.float32)


def make_images(seed: int):
    rng = np.random.default_rng(seed)
    return [make_image(rng, int(rng.integers(0, 9)), int(rng.integers(0, 150))) for _ in range(12)]


def evaluate(images) -> dict[str, float]:
    evaluator = DetectionEvaluator()
    for index, image in enumerate(images):
        evaluator.add(index, *image)
    return evaluator.result()


def library(images) -> list[float]:
    """The library's own summary, every class in one call."""

    def note(i: int, image: int, box, label: int, **more):
        x, y, x1, y1 = map(float, box)
        size = {"bbox": [x, y, x1 - x, y1 - y], "area": (x1 - x) * (y1 - y)}
        return {"id": i, "image_id": image, "category_id": int(label) + 1, "iscrowd": 0, **size, **more}

    true, found = [], []
    for image, (graph, boxes, labels, scores) in enumerate(images):
        truth = zip(graph.boxes_xyxy, graph.classes, strict=True)
        true += [note(len(true) + i, image, b, c) for i, (b, c) in enumerate(truth, start=1)]
        found += [note(0, image, b, c, score=float(s)) for b, c, s in zip(boxes, labels, scores, strict=True)]
    categories = [{"id": c + 1, "name": str(c)} for c in range(6)]
    coco = COCO({"images": [{"id": i} for i in range(len(images))], "categories": categories, "annotations": true})
    evaluation = COCOeval_faster(coco, coco.loadRes(found), "bbox", print_function=lambda *_: None)
    evaluation.run()
    return [float(value) for value in evaluation.stats[:2]]


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_library(seed: int, capsys) -> None:
    images = make_images(seed)
    result = evaluate(images)
    assert capsys.readouterr().out == ""
    assert [result["AP"], result["AP50"]] == pytest.approx(library(images), abs=1e-12)
    assert 0 < result["AP"] < result["AP50"] < 1


def test_perfect_boxes_have_ap_one_and_no_boxes_none() -> None:
    images = [(g, g.boxes_xyxy, g.classes, np.ones(len(g.classes), np.float32)) for g, *_ in make_images(3)]
    assert evaluate(images) == {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0)}
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)
    assert evaluate([(g, *none) for g, *_ in images]) == {"AP": 0.0, "AP50": 0.0}
    assert DetectionEvaluator().result() == {"AP": 0.0, "AP50": 0.0}


def test_images_without_true_boxes_only_add_mistakes() -> None:
    graph, boxes, labels, _ = make_image(np.random.default_rng(0), 3, 0)
    right = (graph, graph.boxes_xyxy, graph.classes, np.full(3, 0.5, np.float32))
    empty = SceneGraph("2", (9, 9), boxes[:0], labels[:0], np.zeros((0, 3), dtype=np.int64))
    wrong = (empty, graph.boxes_xyxy, graph.classes, np.full(3, 0.9, np.float32))
    assert evaluate([right, wrong])["AP50"] < evaluate([right])["AP50"] == pytest.approx(1.0)
    assert evaluate([wrong]) == {"AP": 0.0, "AP50": 0.0}


def test_two_workers_give_the_numbers_of_one() -> None:
    images = make_images(4)
    parts = [DetectionEvaluator(), DetectionEvaluator()]
    for index in reversed(range(len(images))):
        parts[index % 2].add(index, *images[index])
    parts[1].add(0, *images[0])  # padding
    parts[1].add(0, *images[0])
    assert DetectionEvaluator.merge(pickle.loads(pickle.dumps(parts))).result() == evaluate(images)
