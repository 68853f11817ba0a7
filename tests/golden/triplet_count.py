"""The reference's statistic of triplets and background, from our splits: it shows that corners and overlaps agree.

Letters: C object classes, P predicates. Source: method section 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from speaq.data.records import Split, corners, overlap
from speaq.structures import IntArray

PAIRS_AT_ONCE = 1_000_000  # bounds the memory of counting box pairs


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
