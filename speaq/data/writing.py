"""Writes the files of a data set in Visual Genome's layout: what the toy world and converted data share.

Letters: I images, N boxes, M relations, C object classes, P predicates, Z zero-shot triplets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from speaq.data.files import ANNOTATION_NAMES, DICTIONARY_NAMES, IMAGE_DATA_NAME, ZERO_SHOT_NAMES
from speaq.files import atomic


@dataclass
class Rows:
    """Annotations as they go into the h5, image after image: classes and predicates are 1-based."""

    split: list[int] = field(default_factory=list)  # [I] 0 is train, 2 test
    num_boxes: list[int] = field(default_factory=list)  # [I]
    num_relations: list[int] = field(default_factory=list)  # [I]
    labels: list[int] = field(default_factory=list)  # [N]
    relationships: list[tuple[int, int]] = field(default_factory=list)  # [M] subject and object as rows of `labels`
    predicates: list[int] = field(default_factory=list)  # [M]


def write_tables(
    folder: Path,
    rows: Rows,
    images: Sequence[Mapping[str, Any]],
    names: tuple[Sequence[str], Sequence[str]],
    columns: Mapping[str, NDArray[Any]],
    entries: Mapping[str, Any],
) -> None:
    """Writes all files but the photos; the annotations come last, so that what is unfinished has none.

    Args:
        images: [I] entries of image_data.json.
        names: C classes and P predicates.
        columns: of the h5, besides those that `rows` give.
        entries: of the dictionaries, besides those that `names` give.
    """
    _write_json(folder / IMAGE_DATA_NAME, images)
    objects = vocabulary("object", "label", names[0], rows.labels)
    predicates = vocabulary("predicate", "predicate", names[1], rows.predicates)
    _write_json(folder / DICTIONARY_NAMES[0], {**dict(objects), **dict(predicates), **entries})
    np.save(folder / ZERO_SHOT_NAMES[0], _zero_shot(rows))
    first_box, last_box = _ranges(rows.num_boxes)
    first_relation, last_relation = _ranges(rows.num_relations)
    everything: dict[str, NDArray[Any]] = {
        **columns,
        "img_to_first_box": first_box,
        "img_to_first_rel": first_relation,
        "img_to_last_box": last_box,
        "img_to_last_rel": last_relation,
        "split": np.array(rows.split, dtype=np.int32),
        "labels": np.array(rows.labels, dtype=np.int64).reshape(-1, 1),
        "predicates": np.array(rows.predicates, dtype=np.int64).reshape(-1, 1),
        "relationships": np.array(rows.relationships, dtype=np.int32).reshape(-1, 2),
    }
    with atomic.replaced(folder / ANNOTATION_NAMES[0]) as unfinished, h5py.File(unfinished, "w") as file:
        for name, column in sorted(everything.items()):  # equal columns give equal bytes
            file.create_dataset(name, data=column, track_times=False)


def _write_json(path: Path, content: Any) -> None:
    atomic.write_text(path, json.dumps(content))


def vocabulary(kind: str, short: str, names: Sequence[str], ids: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """Three entries of the dictionaries file: names to 1-based ids, back, and how often each occurs."""
    count = Counter(ids)
    yield f"{short}_to_idx", {name: i + 1 for i, name in enumerate(names)}
    yield f"idx_to_{short}", {str(i + 1): name for i, name in enumerate(names)}
    yield f"{kind}_count", {name: count[i + 1] for i, name in enumerate(names)}


def _zero_shot(rows: Rows) -> NDArray[np.int64]:
    """[Z, 3] triplets (subject class, object class, predicate), 1-based and sorted, of test and never of train."""
    seen: dict[int, set[tuple[int, int, int]]] = {0: set(), 2: set()}
    split = np.repeat(rows.split, rows.num_relations).tolist()
    for (subject, other), predicate, part in zip(rows.relationships, rows.predicates, split, strict=True):
        seen[part].add((rows.labels[subject], rows.labels[other], predicate))
    return np.array(sorted(seen[2] - seen[0]), dtype=np.int64).reshape(-1, 3)


def _ranges(counts: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First and last row of every image, inclusive; -1 for both where it has none."""
    last = np.array(list(accumulate(counts)), dtype=np.int32) - 1
    first = last - np.array(counts, dtype=np.int32) + 1
    empty = np.array(counts) == 0
    first[empty] = last[empty] = -1
    return first, last
