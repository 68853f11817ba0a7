"""Counts over a split, and a report on a whole data set.

Letters: C object classes, P predicates, N boxes, M relations, Z zero-shot triplets. Source: method section 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speaq.data.records import VisualGenome
from speaq.data.rules import TEST, TRAIN, VAL, owned_rows
from speaq.data.split import Split, corners, overlap
from speaq.structures import IntArray

PAIRS_AT_ONCE = 1_000_000  # bounds the memory of counting box pairs


def predicate_count(split: Split, num_predicates: int) -> IntArray:
    """[P + 1] relations of every predicate; the last entry (no relation) is 0."""
    return np.bincount(split.relations[:, 2], minlength=num_predicates + 1)


def triplet_count(split: Split, num_classes: int, num_predicates: int) -> IntArray:
    """[C + 1, C + 1, P + 1] relations by subject class, object class and predicate.

    The last predicate counts background: 1 + the ordered pairs of different boxes that overlap; an image in which no
    two boxes overlap adds all its ordered pairs. Golden `g9_*`.
    """
    shape = (num_classes + 1, num_classes + 1, num_predicates + 1)
    first_box = split.box_offsets[split.relation_image]
    subject, obj = (split.classes[first_box + split.relations[:, side]] for side in (0, 1))
    counts = np.zeros(shape, dtype=np.int64)
    np.add.at(counts, (subject, obj, split.relations[:, 2]), 1)
    background = np.ones(shape[:2], dtype=np.int64)
    for first, second in _background_pairs(split):
        np.add.at(background, (split.classes[first], split.classes[second]), 1)
    counts[:, :, -1] = background
    return counts


def _background_pairs(split: Split) -> Iterator[tuple[IntArray, IntArray]]:
    """Ordered box pairs that count as background, for some images at a time."""
    boxes, sizes = corners(split.boxes), np.diff(split.box_offsets)
    part = np.cumsum(sizes**2) // PAIRS_AT_ONCE
    for start, end in _runs(part):
        image, first, second = _ordered_pairs(split.box_offsets[start:end], sizes[start:end])
        overlapping = overlap(boxes[first], boxes[second])
        some = np.zeros(end - start, dtype=np.bool_)
        some[image[overlapping]] = True
        keep = overlapping | ~some[image]
        yield first[keep], second[keep]


def _runs(values: IntArray) -> Iterator[tuple[int, int]]:
    """Start and end of every run of equal values."""
    bounds = np.flatnonzero(np.diff(values)) + 1
    edges = [0, *bounds.tolist(), len(values)]
    return pairwise(edges)


def _ordered_pairs(first_box: IntArray, sizes: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """All ordered pairs of different boxes of each image: position of the image, and the two rows."""
    squares = sizes**2
    image = np.repeat(np.arange(len(sizes)), squares)
    rank = np.arange(len(image)) - np.repeat(np.cumsum(squares) - squares, squares)
    first, second = rank // sizes[image], rank % sizes[image]
    different = first != second
    start = first_box[image]
    return image[different], (start + first)[different], (start + second)[different]


def stats_report(data: VisualGenome) -> dict[str, Any]:
    """What is in a data set, filters aside; the keys are those of the published `stats.json` files."""
    notes = data.annotations
    num_images = len(notes.split)
    boxes, box_image = owned_rows(notes.first_box, notes.last_box)
    relations, image = owned_rows(notes.first_relation, notes.last_relation)
    predicates = notes.predicates[relations] - 1
    objects = np.bincount(notes.labels[boxes] - 1, minlength=data.num_classes)
    present = np.bincount(predicates, minlength=data.num_predicates)
    per_image = np.bincount(box_image, minlength=num_images), np.bincount(image, minlength=num_images)
    return {
        "images": num_images,
        "boxes": len(boxes),
        "relations": len(relations),
        "object_classes": data.num_classes,
        "object_classes_present": int((objects > 0).sum()),
        "predicate_classes": data.num_predicates,
        "predicate_classes_present": int((present > 0).sum()),
        "images_without_boxes": int((per_image[0] == 0).sum()),
        "images_without_relations": int((per_image[1] == 0).sum()),
        "boxes_per_image": _spread(per_image[0]),
        "relations_per_image": _spread(per_image[1]),
        "splits": {
            name: _split_report(data, notes.split == value, per_image, predicates, image)
            for name, value in (("train", TRAIN), ("val", VAL), ("test", TEST))
            if value != VAL or (notes.split == VAL).any()
        },
        "predicates": _named(data.vocabulary.predicates, present),
        "objects": _named(data.vocabulary.objects, objects),
        **_relation_report(data, relations),
        **_triplet_report(data, relations, image),
    }


def _named(names: tuple[str, ...], counts: IntArray) -> dict[str, int]:
    return dict(zip(names, counts.tolist(), strict=True))


def _spread(counts: IntArray) -> dict[str, float]:
    if not len(counts):
        return {"min": 0, "median": 0.0, "mean": 0.0, "max": 0}
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": round(float(counts.mean()), 3),
        "max": int(counts.max()),
    }


def _split_report(
    data: VisualGenome,
    member: NDArray[np.bool_],
    per_image: tuple[IntArray, IntArray],
    predicates: NDArray[np.int32],
    image: IntArray,
) -> dict[str, Any]:
    boxes, relations = (counts[member] for counts in per_image)
    counts = np.bincount(predicates[member[image]], minlength=data.num_predicates)
    return {
        "images": int(member.sum()),
        "images_with_boxes": int((boxes > 0).sum()),
        "images_with_relations": int((relations > 0).sum()),
        "boxes": int(boxes.sum()),
        "relations": int(relations.sum()),
        "predicates": _named(data.vocabulary.predicates, counts),
    }


def _relation_report(data: VisualGenome, relations: IntArray) -> dict[str, int]:
    """Oddities of the relations; overlap is judged on the exact (not truncated) corners."""
    pairs = data.annotations.pairs[relations].astype(np.int64)
    centre, size = (data.annotations.boxes[:, some].astype(np.float64) for some in (slice(2), slice(2, 4)))
    exact = np.concatenate((centre - size / 2, centre + size / 2), axis=1)
    pair = _key(pairs[:, 0], pairs[:, 1])
    distinct, first = np.unique(_key(pair, data.annotations.predicates[relations]), return_index=True)
    _, kinds = np.unique(pair[first], return_counts=True)  # predicates on each pair
    return {
        "self_relations": int((pairs[:, 0] == pairs[:, 1]).sum()),
        "exact_duplicate_rows": len(relations) - len(distinct),
        "pairs": len(kinds),
        "pairs_with_several_predicates": int((kinds > 1).sum()),
        "max_predicates_on_a_pair": int(kinds.max(initial=0)),
        "relations_spanning_images": 0,  # a data set that has some is refused when it is opened
        "relations_with_overlapping_boxes": int(overlap(exact[pairs[:, 0]], exact[pairs[:, 1]]).sum()),
    }


def _key(first: NDArray[np.integer[Any]], second: NDArray[np.integer[Any]]) -> IntArray:
    """One number for each row of two columns of non-negative numbers: equal where both are."""
    return first.astype(np.int64) * (int(second.max(initial=0)) + 1) + second


def _triplet_report(data: VisualGenome, relations: IntArray, image: IntArray) -> dict[str, dict[str, int]]:
    """Kinds of triplet, and rows whose kind is in the zero-shot list (without one: test kinds absent from train)."""
    notes = data.annotations
    pairs = notes.pairs[relations]
    columns = (notes.labels[pairs[:, 0]] - 1, notes.labels[pairs[:, 1]] - 1, notes.predicates[relations] - 1)
    shape = (data.num_classes, data.num_classes, data.num_predicates)
    kinds = np.ravel_multi_index(columns, shape)
    train, test = (kinds[notes.split[image] == value] for value in (TRAIN, TEST))
    if data.zero_shot is None:
        zero_shot = np.setdiff1d(test, train)
    else:
        zero_shot = np.ravel_multi_index(tuple(data.zero_shot.T), shape)
    return {
        "triplet_kinds": {"train": len(np.unique(train)), "test": len(np.unique(test))},
        "zeroshot": {
            "triplets": len(zero_shot),
            "test_rows": int(np.isin(test, zero_shot).sum()),
            "train_rows": int(np.isin(train, zero_shot).sum()),
        },
    }
