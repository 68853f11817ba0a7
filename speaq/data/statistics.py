"""Counts over a split, a report on a whole data set, and the triplets that training never shows.

Letters: C object classes, P predicates, N boxes, M relations, Z zero-shot triplets. Source: method section 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speaq.config import DataConfig
from speaq.data.records import Split, VisualGenome, overlap
from speaq.data.rules import TEST, TRAIN, VAL, owned_rows
from speaq.structures import IntArray


def predicate_count(split: Split, num_predicates: int) -> IntArray:
    """[P + 1] relations of every predicate; the last entry (no relation) is 0."""
    return np.bincount(split.relations[:, 2], minlength=num_predicates + 1)


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
    kinds = _triplets(data, relations)
    train, test = (kinds[notes.split[image] == value] for value in (TRAIN, TEST))
    if data.zero_shot is None:
        zero_shot = np.setdiff1d(test, train)
    else:
        zero_shot = np.ravel_multi_index(tuple(data.zero_shot.T), _shape(data))
    return {
        "triplet_kinds": {"train": len(np.unique(train)), "test": len(np.unique(test))},
        "zeroshot": {
            "triplets": len(zero_shot),
            "test_rows": int(np.isin(test, zero_shot).sum()),
            "train_rows": int(np.isin(train, zero_shot).sum()),
        },
    }


def zero_shot_triplets(
    data: VisualGenome, split: Split, config: DataConfig, source: Literal["file", "recompute"]
) -> IntArray | None:
    """[Z, 3] 0-based rows (subject class, object class, predicate) that zR counts; None without a list.

    `file` is the data set's own list, whatever the split. `recompute` are the triplets of `split` that occur in no
    train (nor val) row of the h5, val images under evaluation apart: for test those absent from train and val, for val
    those absent from train; train has none. Neither the overlap filter nor resampling hides a row from training.
    """
    if source == "file":
        return data.zero_shot
    notes = data.annotations
    shown = np.flatnonzero(np.isin(notes.split, (TRAIN, VAL) if config.val == "split" else (TRAIN,)))
    shown = np.setdiff1d(shown, np.intersect1d(split.rows, data.split("val", config).rows))
    relations = (owned_rows(notes.first_relation, notes.last_relation, rows)[0] for rows in (shown, split.rows))
    seen, evaluated = (_triplets(data, some) for some in relations)
    return np.stack(np.unravel_index(np.setdiff1d(evaluated, seen), _shape(data)), axis=1)


def _triplets(data: VisualGenome, relations: IntArray) -> IntArray:
    """One number for the triplet of each of these relations."""
    notes = data.annotations
    pairs = notes.pairs[relations]
    columns = (notes.labels[pairs[:, 0]] - 1, notes.labels[pairs[:, 1]] - 1, notes.predicates[relations] - 1)
    return np.ravel_multi_index(columns, _shape(data))


def _shape(data: VisualGenome) -> tuple[int, int, int]:
    return data.num_classes, data.num_classes, data.num_predicates
