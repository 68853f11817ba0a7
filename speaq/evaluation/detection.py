"""COCO box AP of detected boxes (method section 10), by faster-coco-eval.

Letters: N ground-truth boxes, D detected boxes of an image, C object classes. AP is a mean over classes, and classes do
not interact: one is handed over at a time, which keeps the library's annotations, a thousand bytes each, few at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speaq.structures import FloatArray, IntArray, SceneGraph

BOX_AP = "box AP"  # the protocol of a detector's numbers


@dataclass(frozen=True)
class ImageBoxes:
    """True and detected boxes of one image: xywh in pixels, class and, of the detected ones, score."""

    truth: FloatArray  # [N, 4]
    truth_classes: NDArray[np.int32]  # [N]
    boxes: FloatArray  # [D, 4]
    classes: NDArray[np.int32]  # [D]
    scores: FloatArray  # [D]


class DetectionEvaluator:
    """Gathers images, each once, and computes box AP over them."""

    def __init__(self) -> None:
        self._images: dict[int, ImageBoxes] = {}

    def add(self, index: int, graph: SceneGraph, boxes_xyxy: FloatArray, classes: IntArray, scores: FloatArray) -> None:
        """Takes the image in row `index` of the split, boxes in its pixels; a second time it is ignored."""
        if index not in self._images:
            truth = (_xywh(graph.boxes_xyxy), graph.classes.astype(np.int32))
            self._images[index] = ImageBoxes(*truth, _xywh(boxes_xyxy), classes.astype(np.int32), scores)

    @staticmethod
    def merge(parts: Sequence[DetectionEvaluator]) -> DetectionEvaluator:
        """The images of several workers, each once (samplers repeat some as padding); the first worker's counts."""
        merged = DetectionEvaluator()
        for part in parts:
            merged._images = part._images | merged._images
        return merged

    def result(self) -> dict[str, float]:
        """AP (mean over IoU 0.5, 0.55 … 0.95) and AP50 in [0, 1], over the classes with a true box; 0 without any."""
        images = [self._images[index] for index in sorted(self._images)]
        if not images:
            return {"AP": 0.0, "AP50": 0.0}
        truth = _columns([image.truth for image in images], [image.truth_classes for image in images])
        found = _columns([image.boxes for image in images], [image.classes for image in images])
        scores = np.concatenate([image.scores for image in images]).astype(np.float64)
        present = np.unique(truth.classes)
        by_class = [
            _average_precision(truth.of(label), found.of(label), scores[found.classes == label]) for label in present
        ]
        ap, ap50 = np.mean(by_class, axis=0) if by_class else (0.0, 0.0)
        return {"AP": float(ap), "AP50": float(ap50)}


@dataclass(frozen=True)
class _Boxes:
    """Boxes of many images in columns."""

    image: IntArray
    boxes: FloatArray
    classes: NDArray[np.int32]

    def of(self, label: int) -> _Boxes:
        rows = self.classes == label
        return _Boxes(self.image[rows], self.boxes[rows], self.classes[rows])

    def annotations(self) -> list[dict[str, Any]]:
        areas = self.boxes[:, 2].astype(np.float64) * self.boxes[:, 3]
        rows = zip(self.image.tolist(), self.boxes.tolist(), areas.tolist(), strict=True)
        return [
            {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
            for i, (image, box, area) in enumerate(rows, start=1)
        ]


def _columns(boxes: list[FloatArray], classes: list[NDArray[np.int32]]) -> _Boxes:
    image = np.repeat(np.arange(len(boxes)), [len(rows) for rows in boxes])
    return _Boxes(image, np.concatenate(boxes), np.concatenate(classes))


def _xywh(boxes_xyxy: FloatArray) -> FloatArray:
    return np.concatenate((boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), axis=1)


def _average_precision(truth: _Boxes, found: _Boxes, scores: NDArray[np.float64]) -> tuple[float, float]:
    """AP and AP50 of one class."""
    from faster_coco_eval import COCO, COCOeval_faster  # here, for it is slow to import

    images = [{"id": image} for image in np.union1d(truth.image, found.image).tolist()]
    coco = COCO({"images": images, "categories": [{"id": 1, "name": "object"}], "annotations": truth.annotations()})
    detections = [note | {"score": score} for note, score in zip(found.annotations(), scores.tolist(), strict=True)]
    evaluation = COCOeval_faster(coco, coco.loadRes(detections), "bbox", print_function=_silent)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]  # [IoU thresholds, recall thresholds], 100 boxes an image
    return float(precision.mean()), float(precision[0].mean())


def _silent(*_: object) -> None:
    """Takes what the library would print, and prints nothing."""
