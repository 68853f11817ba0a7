"""A data set in columns, and its splits.

Everything is held in columns, so that data-loader workers share it and 108,073 images open in seconds. No photo is
opened before it is needed. Source: method section 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.files import Annotations, Files, PhotoFolders, read_attributes
from speaq.data.rules import TEST, TRAIN, VAL, owned_rows
from speaq.data.split import Split, corners, overlap
from speaq.data.tables import ImageTable
from speaq.structures import IntArray, Vocabulary

Array = NDArray[Any]
SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True, eq=False)
class VisualGenome:
    """A data set, opened and found sound."""

    files: Files
    vocabulary: Vocabulary
    annotations: Annotations
    images: ImageTable
    zero_shot: IntArray | None  # [Z, 3] 0-based (subject class, object class, predicate)
    box_scale: int
    photos: PhotoFolders | None  # None: opened without

    @property
    def directory(self) -> Path:
        """The folder of the data set."""
        return self.files.directory

    @property
    def num_classes(self) -> int:
        """C, object classes."""
        return len(self.vocabulary.objects)

    @property
    def num_predicates(self) -> int:
        """P, predicates."""
        return len(self.vocabulary.predicates)

    @cached_property
    def digest(self) -> str:
        """sha256 over the annotation files."""
        return self.files.digest()

    def split(self, name: SplitName, config: DataConfig) -> Split:
        """Images of a split, in the order of the file.

        Val is the first `num_val` of the train rows that have boxes (and relations, unless they are kept without), or
        with `val: split` the rows that the h5 calls val; only train is filtered by overlap.

        Raises:
            DataError: val takes all train images, or the overlap filter leaves none.
        """
        data = self.annotations
        usable = used_rows(data)
        if not config.keep_images_without_relations:
            usable = usable[data.first_relation[usable] >= 0]
        wanted = TEST if name == "test" else VAL if name == "val" and config.val == "split" else TRAIN
        rows = usable[data.split[usable] == wanted]
        if wanted == TRAIN and name == "val":
            rows = rows[: config.num_val]
        if name == "train":
            return self._train(rows, config)
        return self._gather(rows, None)

    def _train(self, candidates: IntArray, config: DataConfig) -> Split:
        rows, keep = candidates[config.num_val :], None
        if config.filter_non_overlap:
            relations, owner = owned_rows(self.annotations.first_relation, self.annotations.last_relation, rows)
            boxes = corners(self.annotations.boxes)
            pairs = self.annotations.pairs[relations]
            keep = np.zeros(len(self.annotations.pairs), dtype=np.bool_)
            keep[relations] = overlap(boxes[pairs[:, 0]], boxes[pairs[:, 1]])
            rows = rows[np.unique(owner[keep[relations]])]
        if not len(rows):
            taken = f"{config.num_val} of {len(candidates)} train images are val"
            filtered = ", in the rest no related boxes overlap" if config.filter_non_overlap else ""
            reason = f"leaves no image to train on ({taken}{filtered}); set it lower"
            raise DataError(f"{self.directory}: data.num_val {reason}")
        return self._gather(rows, keep)

    def _gather(self, rows: IntArray, keep: NDArray[np.bool_] | None) -> Split:
        """Columns of the given h5 rows; `keep` [all relations] selects relations."""
        data = self.annotations
        boxes, box_owner = owned_rows(data.first_box, data.last_box, rows)
        relations, owner = owned_rows(data.first_relation, data.last_relation, rows)
        if keep is not None:
            relations, owner = relations[keep[relations]], owner[keep[relations]]
        local = data.pairs[relations] - data.first_box[rows][owner, None]
        return Split(
            rows=rows,
            image_ids=self.images.ids[rows],
            listed_hw=self.images.sizes_hw[rows],
            boxes=data.boxes[boxes],
            classes=data.labels[boxes] - 1,
            box_offsets=_offsets(box_owner, len(rows)),
            relations=np.concatenate((local, data.predicates[relations, None] - 1), axis=1),
            relation_offsets=_offsets(owner, len(rows)),
            num_predicates=self.num_predicates,
            box_scale=self.box_scale,
            folder=self.photos,
        )

    def attributes(self, split: Split) -> Array | None:
        """[N, 10] attribute ids of the split's boxes as stored (1-based, padded with 0), read anew; None without."""
        stored = read_attributes(self.files.annotations)
        if stored is None or len(stored) != len(self.annotations.boxes):
            return None
        return np.asarray(stored[owned_rows(self.annotations.first_box, self.annotations.last_box, split.rows)[0]])


def _offsets(owner: IntArray, num_images: int) -> IntArray:
    return np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=num_images)))).astype(np.int64)


def used_rows(data: Annotations) -> IntArray:
    """Rows of the h5 that a split can draw: train, val or test, with at least one box."""
    return np.flatnonzero(np.isin(data.split, (TRAIN, VAL, TEST)) & (data.first_box >= 0))
