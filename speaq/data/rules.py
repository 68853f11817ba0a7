"""What every row of the annotations has to satisfy; each rule looks at all rows at once.

Letters: I images, N boxes, M relations, C object classes, P predicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speaq.data.box_forms import Fit, Form, stored_form
from speaq.data.files import Annotations, Problem, Problems, h5_key
from speaq.structures import IntArray

Array = NDArray[Any]
MAX_LISTED = 100  # rows that one rule lists by number
TRAIN, VAL, TEST = 0, 1, 2
LARGEST = 2**24  # coordinates beyond are damage; below they are exact in float32


def check_annotations(file: str, data: Annotations, num_classes: int, num_predicates: int, scale: int) -> Problems:
    """All rows that break a rule, as errors and warnings; an empty list for sound data."""
    problems = list(_check_ranges(file, data))
    problems += _check_ids(file, "labels", data.labels, num_classes)
    problems += _check_ids(file, "predicates", data.predicates, num_predicates)
    problems += _check_boxes(file, data.boxes, scale)
    if not problems:  # needs sound ranges
        problems += _check_pairs(file, data)
    if len(val := np.flatnonzero(data.split == VAL)):
        rule = "1 is val with data.val=split data.num_val=0; the rows are left out otherwise"
        problems.append(Problem(file, int(val[0]), "split", rule, f"{len(val)} rows", "warning"))
    unused = np.flatnonzero(~np.isin(data.split, (TRAIN, VAL, TEST)))
    rule = "is 0 (train), 1 (val) or 2 (test); the row is left out"
    return [*problems, *_listed(file, "split", rule, unused, data.split, "warning")]


def check_form(
    file: str, data: Annotations, sizes_hw: Array, scale: int, severity: Literal["error", "warning"]
) -> Problems:
    """Whether the boxes look like another form than the h5's, or reach far outside their photos: one line of each.

    Args:
        sizes_hw: [I, 2] of the photos, 0 where unknown.
        severity: of boxes in another form; single ones that reach outside are a warning.
    """
    rows, image = owned_rows(data.first_box, data.last_box)
    rows, image = (some[sizes_hw[image, 0] > 0] for some in (rows, image))
    boxes, sizes_wh = data.boxes[rows], sizes_hw[image][:, ::-1].astype(np.float64)
    field, rule = h5_key("boxes", scale), f"is centre x, centre y, width, height on the scale of {scale}"
    if (found := stored_form(boxes, sizes_wh, scale)) is not None:
        looks, wrong = found
        value = f"{boxes[wrong[0]].tolist()}: {_so_many(rows[wrong], len(rows))} not; they look like {looks}"
        return [Problem(file, int(rows[wrong[0]]), field, rule, value, severity)]
    on_scale = sizes_wh * scale / sizes_wh.max(axis=1, keepdims=True)
    fit = Fit.of(Form("cxcywh").corners(boxes.astype(np.float64), on_scale), on_scale)
    far = np.flatnonzero(fit.far & ~fit.absent)  # those that are absent are listed one by one
    if not len(far):
        return []
    value = f"{boxes[far[0]].tolist()}: {_so_many(rows[far], len(rows))} far outside it"
    return [Problem(file, int(rows[far[0]]), field, "reaches at most slightly out of the photo", value, "warning")]


def _so_many(rows: IntArray, total: int) -> str:
    others = f" (rows {', '.join(map(str, rows[1:4]))}{', …' if len(rows) > 4 else ''} too)" if len(rows) > 1 else ""
    return f"{len(rows)} of {total} boxes{others} {'is' if len(rows) == 1 else 'are'}"


def check_train(file: str, data: Annotations) -> Problems:
    """Whether there is anything to train on: images, train images, and relations in them."""
    if not len(data.split):
        return [Problem(file, None, "split", "has at least one image", "0 rows")]
    train = data.split == TRAIN
    if not train.any():
        return [Problem(file, None, "split", "has at least one train image (0)", "none")]
    if not (train & (data.first_relation >= 0)).any():
        return [Problem(file, None, h5_key("first_relation"), "some train image has a relation", "none has")]
    return []


def _listed(
    file: str, field: str, rule: str, rows: IntArray, values: Array, severity: Any = "error"
) -> Iterator[Problem]:
    """One problem per row, the first `MAX_LISTED` by number and the rest as a count."""
    for row in rows[:MAX_LISTED]:
        yield Problem(file, int(row), field, rule, str(values[row].tolist()), severity)
    if len(rows) > MAX_LISTED:
        yield Problem(file, None, field, rule, f"{len(rows) - MAX_LISTED} more rows", severity)


def _check_ids(file: str, field: str, ids: Array, largest: int) -> Iterator[Problem]:
    bad = np.flatnonzero((ids < 1) | (ids > largest))
    return _listed(file, field, f"is 1 to {largest}, an id of the dictionary", bad, ids)


def _check_ranges(file: str, data: Annotations) -> Iterator[Problem]:
    for what, first, last, total in (
        ("box", data.first_box, data.last_box, len(data.boxes)),
        ("relation", data.first_relation, data.last_relation, len(data.pairs)),
    ):
        field = f"{h5_key(f'first_{what}')}, {h5_key(f'last_{what}')}"
        values = np.stack((first, last), axis=1).astype(np.int64)
        used = ~((first == -1) & (last == -1))
        bad = used & ~((first >= 0) & (first <= last) & (last < total))
        rule = f"are -1 twice, or rising rows below {total}"
        yield from _listed(file, field, rule, np.flatnonzero(bad), values)
        rows = np.flatnonzero(used & ~bad)
        rows = rows[np.argsort(first[rows], kind="stable")]
        shared = np.sort(rows[1:][first[rows[1:]] <= last[rows[:-1]]])
        yield from _listed(file, field, f"no two images share a {what}", shared, values)


def _check_boxes(file: str, boxes: Array, scale: int) -> Iterator[Problem]:
    field = h5_key("boxes", scale)
    values = boxes.astype(np.float64)
    finite = (np.abs(values) < LARGEST).all(axis=1)  # false for NaN
    yield from _listed(file, field, "is finite", np.flatnonzero(~finite), boxes)
    flat = finite & (values[:, 2:] <= 0).any(axis=1)
    yield from _listed(file, field, "width and height are above 0", np.flatnonzero(flat), boxes)
    # The short side is not judged: encoders clamp to the long side in both directions, so real boxes reach past it.
    centre, half = values[:, :2], values[:, 2:] / 2
    outside = finite & ~flat & ((centre + half <= 0) | (centre - half >= scale)).any(axis=1)
    yield from _listed(file, field, f"lies in the image (0 to {scale})", np.flatnonzero(outside), boxes)


def _check_pairs(file: str, data: Annotations) -> Iterator[Problem]:
    relations, images = owned_rows(data.first_relation, data.last_relation)
    pairs = data.pairs[relations].astype(np.int64)
    first, last = (bound[images].astype(np.int64)[:, None] for bound in (data.first_box, data.last_box))
    bad = np.sort(relations[((pairs < first) | (pairs > last) | (first < 0)).any(axis=1)])
    yield from _listed(file, h5_key("pairs"), "subject and object are boxes of the relation's image", bad, data.pairs)


def owned_rows(first: Array, last: Array, images: IntArray | None = None) -> tuple[IntArray, IntArray]:
    """Rows in the inclusive ranges of `images` (default all, -1 is none), image by image, and the image of each.

    Returns:
        rows [n] int64, and for each the position in `images` [n] int64, ascending.
    """
    if images is None:
        images = np.arange(len(first))
    start = first[images].astype(np.int64)
    size = np.where(start < 0, 0, last[images].astype(np.int64) - start + 1)
    owner = np.repeat(np.arange(len(images)), size)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(size) - size, size)
    return start[owner] + rank, owner
