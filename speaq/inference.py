"""From raw outputs to ranked triplets in pixels of the original image (method section 9).

Letters: B images, R relation queries, C object classes, P predicates, M predicates kept of a query, D kept boxes,
T triplets. Boxes of all images lie in one list, sorted by image; everything up to the final split runs on the
outputs' device. NaN is refused; of equal scores the lower query comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speaq.boxes import cxcywh_to_xyxy, iou
from speaq.config import InferenceConfig
from speaq.structures import FloatArray, IntArray, LayerOutputs, ScenePrediction


class Detections(NamedTuple):
    """Boxes of one image, best first, without suppression."""

    boxes_xyxy: FloatArray  # [D, 4] pixels of the original image
    classes: IntArray  # [D]
    scores: FloatArray  # [D]


@dataclass(frozen=True)
class KeptBoxes:
    """What suppression leaves of all images' boxes, by image and then by descending score."""

    image: Tensor  # [D] int64
    source: Tensor  # [D] int64, box of the image: 0..R-1 its subject boxes, R..2R-1 its object boxes
    boxes: Tensor  # [D, 4] xyxy in units of the image, not clipped
    classes: Tensor  # [D] int64
    scores: Tensor  # [D]

    def select(self, rows: Tensor) -> KeptBoxes:
        """The boxes of these rows alone, in this order."""
        return KeptBoxes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class RankedTriplets:
    """Triplets of all images, by image and then by descending score; `pairs` index `KeptBoxes`."""

    image: Tensor  # [T] int64
    query: Tensor  # [T] int64
    pairs: Tensor  # [T, 2] int64
    predicates: Tensor  # [T] int64
    scores: Tensor  # [T]
    predicate_scores: Tensor  # [T, P+1]

    def select(self, rows: Tensor) -> RankedTriplets:
        """The triplets of these rows alone, in this order."""
        return RankedTriplets(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class QueryOutputs:
    """What decoding needs of every query, whatever the inference section says; of one decoder layer."""

    scores: Tensor  # [B, 2R] probability of the best class: R subjects, then R objects
    classes: Tensor  # [B, 2R] int64 best class
    boxes: Tensor  # [B, 2R, 4] xyxy in units of the image
    predicate_logits: Tensor  # [B, R, P+1] float32

    def images(self, some: slice) -> QueryOutputs:
        """The outputs of some of the B images."""
        return QueryOutputs(**{f.name: getattr(self, f.name)[some] for f in fields(self)})


@torch.no_grad()
def decode(
    outputs: LayerOutputs,
    sizes_hw: Sequence[tuple[int, int]],
    config: InferenceConfig,
    predicate_count: IntArray | None = None,
) -> list[ScenePrediction]:
    """Ranked triplets of B images in pixels of the original images, whose heights and widths are `sizes_hw`.

    Kept boxes are in descending order of score, triplets in descending order of p_sub p_obj p_pred of their query (each
    to its exponent); a (subject box, object box, predicate) occurs once, and with `pairwise_nms` near repetitions go as
    well. Boxes that clipping leaves empty are dropped with their triplets.
    `predicate_count` [P+1] of the train split (the last is not used) is what `logit_adjustment` needs.
    Raises ValueError where an output is not finite, or where M exceeds P. Source: method section 9.
    """
    return decode_queries(query_outputs(outputs, config.layer), sizes_hw, config, predicate_count)


@torch.no_grad()
def decode_queries(
    queries: QueryOutputs,
    sizes_hw: Sequence[tuple[int, int]],
    config: InferenceConfig,
    predicate_count: IntArray | None = None,
) -> list[ScenePrediction]:
    """`decode` from the outputs of one layer, kept from earlier; `config.layer` is not looked at."""
    num_images, num_queries, _ = queries.predicate_logits.shape
    assert len(sizes_hw) == num_images, "one size for each image"
    predictions: list[ScenePrediction] = []
    step = max(num_images, 1)
    if queries.scores.device.type == "cpu":  # suppression takes time with the square of the boxes
        step = max(1024 // max(2 * num_queries, 1), 1)
    for start in range(0, num_images, step):
        kept, triplets = rank_triplets(queries.images(slice(start, start + step)), config, predicate_count)
        predictions += to_scene_predictions(kept, triplets, sizes_hw[start : start + step])
    return predictions


@torch.no_grad()
def query_outputs(outputs: LayerOutputs, layer: int = -1) -> QueryOutputs:
    """The outputs of one decoder layer as decoding sees them. Raises ValueError where they are not finite."""
    subject_scores, subject_classes = best_class(outputs.subject_logits[layer])  # [B, R]
    object_scores, object_classes = best_class(outputs.object_logits[layer])
    boxes = torch.cat((outputs.subject_boxes[layer], outputs.object_boxes[layer]), dim=1)  # [B, 2R, 4]
    queries = QueryOutputs(
        scores=torch.cat((subject_scores, object_scores), dim=1),
        classes=torch.cat((subject_classes, object_classes), dim=1),
        boxes=cxcywh_to_xyxy(boxes.float()),
        predicate_logits=outputs.predicate_logits[layer].float(),
    )
    _require_finite(boxes=queries.boxes, scores=queries.scores, predicates=queries.predicate_logits)
    return queries


def rank_triplets(
    queries: QueryOutputs, config: InferenceConfig, predicate_count: IntArray | None = None
) -> tuple[KeptBoxes, RankedTriplets]:
    """Kept boxes and ranked triplets of all images before they are scaled to the images (method section 9)."""
    logits = queries.predicate_logits
    if config.logit_adjustment:
        logits = logits - config.logit_adjustment * _log_shares(predicate_count, logits)
    kept, pointer = _suppress(queries.boxes, queries.classes, queries.scores, config.nms_threshold)
    subject_scores, object_scores = queries.scores.chunk(2, dim=1)
    box_scores = _power(subject_scores, config.subject_exponent) * _power(object_scores, config.object_exponent)
    probabilities = logits.softmax(-1)  # [B, R, P+1]
    triplets = _triplets(probabilities, box_scores, pointer, config.predictions_per_query, config.predicate_exponent)
    triplets = _rank(triplets)
    if config.pairwise_nms is not None:
        triplets = triplets.select(_stays(kept, triplets, config.pairwise_nms))
    return kept, triplets


def best_class(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[..., C+1] logits → probability [...] and index [...] of the best class that is not background (the last)."""
    scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)
    return scores, classes


def _require_finite(**values: Tensor) -> None:
    for name, value in values.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"outputs of the model are not finite: {name} hold NaN or infinity")


def _suppress(boxes: Tensor, classes: Tensor, scores: Tensor, threshold: float) -> tuple[KeptBoxes, Tensor]:
    """Suppression within image and class → kept boxes and, for each of the [B, 2R] boxes, the kept box it points to."""
    num_images, num_boxes = scores.shape
    image = torch.arange(num_images, device=boxes.device).repeat_interleave(num_boxes)
    label = classes.flatten() + image * (int(classes.max()) + 1 if classes.numel() else 1)  # image and class in one
    flat = boxes.flatten(0, 1)
    keep = _suppress_by_label(flat, label, scores.flatten(), threshold)  # descending score
    keep = keep[image[keep].argsort(stable=True)]
    everything = KeptBoxes(
        image,
        torch.arange(num_boxes, device=boxes.device).repeat(num_images),
        flat,
        classes.flatten(),
        scores.flatten(),
    )
    pointer = _best_overlap(flat, label, flat[keep], label[keep])
    return everything.select(keep), pointer.view(num_images, num_boxes)


def _suppress_by_label(boxes: Tensor, label: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices that suppression among boxes of one label leaves, best first.

    Labels are moved apart by an offset; float64, for in float32 a large offset would round the boxes.
    """
    if not len(boxes):
        return label
    from torchvision.ops import nms  # torchvision takes as long to import as torch

    apart = boxes.double() - boxes.min()
    apart = apart + (label * (apart.max() + 1)).unsqueeze(-1)
    order = scores.argsort(descending=True, stable=True)  # ties as in the list, on every device
    ranks = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=torch.float64)
    return order[nms(apart[order], ranks, threshold)]


def _best_overlap(boxes: Tensor, label: Tensor, kept_boxes: Tensor, kept_label: Tensor) -> Tensor:
    """For each box the kept box of its label with the highest IoU, the first of equals; every label has one."""
    kept_label, order = kept_label.sort(stable=True)
    start = torch.searchsorted(kept_label, label)
    count = torch.searchsorted(kept_label, label, right=True) - start
    row = torch.arange(len(boxes), device=boxes.device).repeat_interleave(count)  # [pairs of equal label]
    column = order[torch.arange(len(row), device=boxes.device) + (start - (count.cumsum(0) - count))[row]]
    # Gathered coordinate by coordinate: reading whole coordinate columns is several times faster than rows of four.
    overlap = iou(boxes.T.contiguous().index_select(1, row).T, kept_boxes.T.contiguous().index_select(1, column).T)
    best = overlap.new_full((len(boxes),), -1.0).scatter_reduce(0, row, overlap, "amax")
    candidate = torch.where(overlap == best[row], column, len(kept_boxes))
    return column.new_full((len(boxes),), len(kept_boxes)).scatter_reduce(0, row, candidate, "amin")


def _log_shares(predicate_count: IntArray | None, like: Tensor) -> Tensor:
    """[P+1] logarithm of each predicate's share of the training relations, each counted once more; no-relation 0."""
    if predicate_count is None:
        raise ValueError("inference.logit_adjustment needs the predicate counts of a train split, which are not here")
    counts = like.new_tensor(predicate_count[:-1]) + 1
    return torch.cat(((counts / counts.sum()).log(), counts.new_zeros(1)))


def _power(scores: Tensor, exponent: float) -> Tensor:
    return scores if exponent == 1 else scores.pow(exponent)


def _triplets(
    probabilities: Tensor, box_scores: Tensor, pointer: Tensor, per_query: int, exponent: float
) -> RankedTriplets:
    """The best M predicates of every query as triplets, by image, query and descending predicate score."""
    num_images, num_queries, num_predicates = (*probabilities.shape[:2], probabilities.shape[2] - 1)
    if per_query > num_predicates:
        raise ValueError(f"inference.predictions_per_query {per_query} exceeds the {num_predicates} predicates")
    scores, predicates = _best(probabilities[..., :-1], per_query)  # [B, R, M]
    pairs = torch.stack((pointer[:, :num_queries], pointer[:, num_queries:]), dim=-1)  # [B, R, 2]
    row = torch.arange(num_images * num_queries, device=pairs.device).repeat_interleave(per_query)
    return RankedTriplets(
        image=row // max(num_queries, 1),
        query=row % max(num_queries, 1),
        pairs=_repeat(pairs.flatten(0, 1), per_query),
        predicates=predicates.flatten(),
        scores=(box_scores.unsqueeze(-1) * _power(scores, exponent)).flatten(),
        predicate_scores=_repeat(probabilities.flatten(0, 1), per_query),
    )


def _repeat(rows: Tensor, count: int) -> Tensor:
    """Each row `count` times in place; one time costs nothing."""
    return rows if count == 1 else rows.repeat_interleave(count, dim=0)


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the last dimension and where they are, largest first; one is found quicker than sorted."""
    if count > 1:
        return scores.topk(count, dim=-1)
    best, where = scores.max(dim=-1, keepdim=True)
    return best, where


def _rank(triplets: RankedTriplets) -> RankedTriplets:
    """By image and descending score; of equal (subject box, object box, predicate) the first stays."""
    order = triplets.scores.argsort(descending=True, stable=True)
    order = order[triplets.image[order].argsort(stable=True)]
    name = _name(triplets)[order]
    by_name = name.argsort(stable=True)
    first = torch.ones_like(name, dtype=torch.bool)
    first[by_name[1:]] = name[by_name[1:]] != name[by_name[:-1]]
    return triplets.select(order[first])


def _name(triplets: RankedTriplets) -> Tensor:
    """[T] one number for (subject box, object box, predicate)."""
    num_boxes = triplets.pairs.max() + 1 if triplets.pairs.numel() else 1
    num_predicates = triplets.predicate_scores.shape[1] - 1
    return (triplets.pairs[:, 0] * num_boxes + triplets.pairs[:, 1]) * num_predicates + triplets.predicates


def _stays(kept: KeptBoxes, triplets: RankedTriplets, threshold: float) -> Tensor:
    """[T] which ranked triplets pairwise suppression leaves.

    Of triplets of an image with the same subject class, object class and predicate, one goes when its subject IoU times
    object IoU with a better one that stays exceeds the threshold (boxes before clipping). That rule has one solution:
    applied again and again from "all stay", it settles the best triplets first, then those that depend on them.
    """
    better, worse = _same_labels(kept, triplets)
    subject, object_ = (
        iou(kept.boxes[triplets.pairs[better, side]], kept.boxes[triplets.pairs[worse, side]]) for side in (0, 1)
    )
    overlapping = subject * object_ > threshold
    better, worse = better[overlapping], worse[overlapping]
    stays, before = torch.ones_like(triplets.image, dtype=torch.bool), None
    while before is None or not torch.equal(stays, before):
        before, stays = stays, torch.ones_like(stays)
        stays[worse[before[better]]] = False
    return stays


def _same_labels(kept: KeptBoxes, triplets: RankedTriplets) -> tuple[Tensor, Tensor]:
    """All pairs (better, worse) of ranked triplets of one image with the same classes and predicate."""
    labels = torch.cat((triplets.image[:, None], kept.classes[triplets.pairs], triplets.predicates[:, None]), dim=1)
    label = labels.unique(dim=0, return_inverse=True)[1]  # type: ignore[no-untyped-call]
    order = label.argsort(stable=True)  # within a label the better ones first
    count = label.bincount()
    place = torch.arange(len(label), device=label.device)
    worse_than = place - (count.cumsum(0) - count)[label[order]]  # better triplets of the label
    worse = place.repeat_interleave(worse_than)
    rank = torch.arange(len(worse), device=label.device) - (worse_than.cumsum(0) - worse_than).repeat_interleave(
        worse_than
    )
    better = worse - worse_than[worse] + rank
    return order[better], order[worse]


def to_scene_predictions(
    kept: KeptBoxes, triplets: RankedTriplets, sizes_hw: Sequence[tuple[int, int]]
) -> list[ScenePrediction]:
    """Boxes scaled to the images and clipped, empty ones dropped with their triplets, pairs re-indexed; NumPy."""
    boxes = scale_and_clip(kept.boxes, _sizes(sizes_hw, kept.boxes)[kept.image])
    filled = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(-1)
    renumbered = filled.cumsum(0) - 1
    triplets = triplets.select(filled[triplets.pairs].all(-1))
    kept = kept.select(filled)
    return _split(kept, boxes[filled], triplets, renumbered[triplets.pairs], len(sizes_hw))


def _sizes(sizes_hw: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """[B, 4] width, height, width, height."""
    return like.new_tensor([(w, h, w, h) for h, w in sizes_hw]).view(-1, 4)


def scale_and_clip(boxes: Tensor, whwh: Tensor) -> Tensor:
    """xyxy in units of the image → pixels within it; `whwh` holds width, height, width, height and broadcasts."""
    return torch.minimum((boxes * whwh).clamp(min=0), whwh)


def _split(
    kept: KeptBoxes, boxes: Tensor, triplets: RankedTriplets, pairs: Tensor, num_images: int
) -> list[ScenePrediction]:
    num_boxes = torch.bincount(kept.image, minlength=num_images)
    box_start = num_boxes.cumsum(0) - num_boxes
    per_box = (boxes, kept.classes, kept.scores)
    pairs = pairs - box_start[triplets.image].unsqueeze(-1)
    per_triplet = (pairs, triplets.predicates, triplets.scores, triplets.predicate_scores, triplets.query)
    num_triplets = torch.bincount(triplets.image, minlength=num_images)
    columns = [_by_image(column, num_boxes) for column in per_box]
    columns += [_by_image(column, num_triplets) for column in per_triplet]
    return [ScenePrediction(*image) for image in zip(*columns, strict=True)]


def _by_image(values: Tensor, counts: Tensor) -> list[NDArray[np.generic]]:
    ends = counts.cumsum(0).tolist()
    return np.split(values.cpu().numpy(), ends[:-1]) if ends else []


@torch.no_grad()
def decode_detections(logits: Tensor, boxes: Tensor, sizes_hw: Sequence[tuple[int, int]]) -> list[Detections]:
    """Detector outputs [B, Q, C+1] and cxcywh [B, Q, 4] → each query's best class and box in pixels, best first.

    Boxes that clipping leaves empty are dropped. Raises ValueError where an output is not finite.
    """
    scores, classes = best_class(logits)
    boxes_xyxy = cxcywh_to_xyxy(boxes.float())
    _require_finite(boxes=boxes_xyxy, scores=scores)
    boxes_xyxy = scale_and_clip(boxes_xyxy, _sizes(sizes_hw, boxes_xyxy).unsqueeze(1))
    order = scores.argsort(dim=-1, descending=True, stable=True)
    scores, classes = scores.gather(1, order).cpu(), classes.gather(1, order).cpu()
    boxes_xyxy = boxes_xyxy.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)).cpu()
    filled = ((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]) > 0).all(-1)
    return [
        Detections(b[f].numpy(), c[f].numpy(), s[f].numpy())
        for b, c, s, f in zip(boxes_xyxy, classes, scores, filled, strict=True)
    ]
