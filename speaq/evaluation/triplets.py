"""Which predicted triplet finds which ground-truth row (method section 10).

Letters: M ground-truth rows (relations), T predicted triplets, P predicates. Boxes are xyxy in pixels of one image.
NumPy, for a few hundred numbers an image are too few for anything else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from speaq.evaluation.protocol import Mode as Mode
from speaq.evaluation.protocol import Protocol
from speaq.evaluation.table import NEVER
from speaq.structures import IntArray, SceneGraph, ScenePrediction

BoolArray = NDArray[np.bool_]

# Combinations (pair, predicate) that ng-R looks at; more only where a K is larger. Method section 10.
NUM_UNCONSTRAINED = 100


def apply_mode(graph: SceneGraph, prediction: ScenePrediction, mode: Mode) -> ScenePrediction:
    """What a mode gives away: predcls replaces boxes, classes and scores by the ground truth's (score 1).

    In sgcls and predcls the pairs index the ground-truth boxes. Raises ValueError where the boxes are not as many.
    """
    if mode in ("sgdet", "phrase"):
        return prediction
    if len(prediction.boxes_xyxy) != len(graph.boxes_xyxy):
        raise ValueError(
            f"{mode} of image {graph.image_id}: needs the {len(graph.boxes_xyxy)} ground-truth boxes, "
            f"found {len(prediction.boxes_xyxy)}"
        )
    if mode == "sgcls":
        return prediction
    return replace(
        prediction,
        boxes_xyxy=graph.boxes_xyxy,
        classes=graph.classes,
        scores=np.ones(len(graph.classes), dtype=np.float32),
    )


def constrained(prediction: ScenePrediction, protocol: Protocol) -> IntArray | slice:
    """The triplet rows that a protocol leaves, best first: see `speaq.evaluation.protocol`."""
    if protocol == "published":
        return slice(None)
    key = pair_key(prediction.pairs) if protocol == "strict" else prediction.query_index
    return np.sort(np.unique(key, return_index=True)[1])  # the first row of each


def unconstrained(prediction: ScenePrediction, k: int, unique: bool = False) -> tuple[IntArray, IntArray]:
    """The k best (triplet row, predicate) by box score · box score · predicate score, best first.

    Several predicates of a row are allowed; of equal scores the lower row and predicate comes first. With `unique` a
    (subject box, object box, predicate) that several rows bring counts once, at its best score.
    """
    box_scores = prediction.scores[prediction.pairs].prod(axis=1)
    scores = box_scores[:, None] * prediction.predicate_scores[:, :-1]  # [T, P]
    if unique:
        scores = np.where(_best_of_pair(scores, pair_key(prediction.pairs)), scores, -np.inf)
    best = _largest(scores, k)
    if unique:
        best = best[scores.ravel()[best] > -np.inf]
    return best // scores.shape[1], best % scores.shape[1]


def _best_of_pair(scores: NDArray[np.float32], pair: IntArray) -> BoolArray:
    """[T, P] where a score is the highest among the rows of its pair, the first one of equals."""
    order = np.argsort(pair, kind="stable")
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    if len(starts) == len(pair):
        return np.ones(scores.shape, dtype=np.bool_)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(pair)))
    ordered = scores[order]
    highest = ordered == np.maximum.reduceat(ordered, starts)[group]
    earlier = highest.cumsum(axis=0) - highest  # highest ones in the rows before
    first = np.empty(scores.shape, dtype=np.bool_)
    first[order] = highest & (earlier == earlier[starts][group])
    return first


def pair_key(pairs: IntArray) -> IntArray:
    """[N] one number of at least 0 for each (subject box, object box) [N, 2]."""
    return pairs[:, 0] << 32 | pairs[:, 1]


def _largest(values: NDArray[np.float32], k: int) -> IntArray:
    """Flat indices of the k largest of [T, P] values in descending order, ties in ascending order of index.

    Only values that reach the k-th largest row maximum are sorted: that many lie at or above it for certain.
    """
    flat = values.ravel()
    candidates: IntArray = np.arange(flat.size)
    if len(values) > k:
        bound = np.partition(values.max(axis=1), -k)[-k]
        candidates = np.flatnonzero(flat >= bound)
    return candidates[np.argsort(-flat[candidates], kind="stable")[:k]]


def triplet_key(classes: IntArray, predicates: IntArray) -> IntArray:
    """[N] one number for each (subject class, object class) [N, 2] and predicate [N]; labels are below 2²¹."""
    return classes[:, 0] << 42 | classes[:, 1] << 21 | predicates


def labels(graph: SceneGraph) -> IntArray:
    """[M] key of each ground-truth row's subject class, object class and predicate."""
    return triplet_key(graph.classes[graph.relations[:, :2]], graph.relations[:, 2])


def match(
    graph: SceneGraph,
    prediction: ScenePrediction,
    pairs: IntArray,
    predicates: IntArray,
    iou_threshold: float,
    phrase: bool = False,
) -> tuple[IntArray, IntArray]:
    """All matches of predicted triplets, given as box `pairs` [T, 2] and `predicates` [T], with ground-truth rows.

    Returns (position in the list of triplets, ground-truth row), sorted by both. A match has three equal labels, and
    both boxes (with `phrase`, the boxes around both) of an IoU of at least the threshold. One triplet may match several
    rows and the reverse; empty boxes match nothing. Source: method section 10.
    """
    ours = triplet_key(prediction.classes[pairs], predicates)
    position, row = np.nonzero(ours[:, None] == labels(graph))
    found = _found(graph, prediction, pairs[position], row, phrase) >= iou_threshold
    return position[found], row[found]


def first_found(position: IntArray, row: IntArray, num_rows: int) -> IntArray:
    """[M] position of the first triplet that finds each ground-truth row, NEVER where none does; takes `match`'s."""
    first = np.full(num_rows, NEVER)
    first[row[::-1]] = position[::-1]  # positions ascend: the last one written is the smallest
    return first


def _found(
    graph: SceneGraph, prediction: ScenePrediction, pairs: IntArray, row: IntArray, phrase: bool
) -> NDArray[np.float64]:
    """The IoU that decides each candidate: of the worse box, or of the box around both."""
    ours = prediction.boxes_xyxy[pairs].astype(np.float64)  # [candidates, 2, 4]
    theirs = graph.boxes_xyxy[graph.relations[row, :2]].astype(np.float64)
    if phrase:
        return _iou(_around(ours), _around(theirs))
    both: NDArray[np.float64] = _iou(ours, theirs).min(axis=1)
    return both


def _around(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 2, 4] → [..., 4], the smallest box that holds both."""
    return np.concatenate((boxes[..., :2].min(axis=-2), boxes[..., 2:].max(axis=-2)), axis=-1)


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 4] elementwise; 0 where the union is empty."""
    size = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    intersection = size[..., 0] * size[..., 1]
    union = _area(a) + _area(b) - intersection
    overlap: NDArray[np.float64] = intersection / np.where(union > 0, union, 1)
    return overlap


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area
