"""Zero-shot triplets: (subject class, object class, predicate) of an evaluated split that training never shows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from speaq.config import DataConfig
from speaq.data.records import VisualGenome
from speaq.data.rules import TRAIN, VAL, owned_rows
from speaq.data.split import Split
from speaq.structures import IntArray


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
    seen, evaluated = (_keys(data, rows) for rows in (shown, split.rows))
    return np.stack(np.unravel_index(np.setdiff1d(evaluated, seen), _shape(data)), axis=1)


def _shape(data: VisualGenome) -> tuple[int, int, int]:
    return data.num_classes, data.num_classes, data.num_predicates


def _keys(data: VisualGenome, rows: IntArray) -> IntArray:
    """One number for the triplet of every relation of the given h5 rows."""
    notes = data.annotations
    relations, _ = owned_rows(notes.first_relation, notes.last_relation, rows)
    pairs = notes.pairs[relations]
    columns = notes.labels[pairs[:, 0]] - 1, notes.labels[pairs[:, 1]] - 1, notes.predicates[relations] - 1
    return np.ravel_multi_index(columns, _shape(data))
