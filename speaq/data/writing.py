"""Writes the files of a data set in Visual Genome's layout: what the toy world and converted data share.

Letters: I images, N boxes, M relations, C object classes, P predicates, Z zero-shot triplets.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from speaq.files import atomic


def write_json(path: Path, content: Any) -> None:
    """Writes plain values as JSON, in one atomic step."""
    atomic.write_text(path, json.dumps(content))


def vocabulary(kind: str, short: str, names: Sequence[str], ids: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """Three entries of the dictionaries file: names to 1-based ids, back, and how often each occurs."""
    count = Counter(ids)
    yield f"{short}_to_idx", {name: i + 1 for i, name in enumerate(names)}
    yield f"idx_to_{short}", {str(i + 1): name for i, name in enumerate(names)}
    yield f"{kind}_count", {name: count[i + 1] for i, name in enumerate(names)}


def zero_shot(
    split: Sequence[int],
    num_relations: Sequence[int],
    labels: Sequence[int],
    relationships: Sequence[tuple[int, int]],
    predicates: Sequence[int],
) -> NDArray[np.int64]:
    """[Z, 3] triplets (subject class, object class, predicate), 1-based and sorted, of test and never of train.

    Args:
        split: [I] 0 is train, 2 test.
        num_relations: [I] relations of every image, which follow one another.
        labels: [N] 1-based classes.
        relationships: [M] subject and object as rows of `labels`.
        predicates: [M] 1-based.
    """
    seen: dict[int, set[tuple[int, int, int]]] = {0: set(), 2: set()}
    image = np.repeat(np.arange(len(split)), num_relations).tolist()
    for (subject, other), predicate, row in zip(relationships, predicates, image, strict=True):
        seen[split[row]].add((labels[subject], labels[other], predicate))
    return np.array(sorted(seen[2] - seen[0]), dtype=np.int64).reshape(-1, 3)


def ranges(counts: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """First and last row of every image, inclusive; -1 for both where it has none."""
    last = np.array(list(accumulate(counts)), dtype=np.int32) - 1
    first = last - np.array(counts, dtype=np.int32) + 1
    empty = np.array(counts) == 0
    first[empty] = last[empty] = -1
    return first, last


def image_columns(
    split: Sequence[int], num_boxes: Sequence[int], num_relations: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """The h5's columns of I rows."""
    first_box, last_box = ranges(num_boxes)
    first_relation, last_relation = ranges(num_relations)
    return {
        "img_to_first_box": first_box,
        "img_to_first_rel": first_relation,
        "img_to_last_box": last_box,
        "img_to_last_rel": last_relation,
        "split": np.array(split, dtype=np.int32),
    }


def write_columns(path: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Writes the h5 in one atomic step; equal columns give equal bytes."""
    with atomic.replaced(path) as unfinished, h5py.File(unfinished, "w") as file:
        for name, column in sorted(columns.items()):
            file.create_dataset(name, data=column, track_times=False)
