"""Ranks at which ground-truth rows were found, in columns: all that recalls at any K are made of.

Letters: I images, N ground-truth rows of all images, P predicates. A few bytes a row, so a whole split fits, travels
between workers, and can be drawn from again for a bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from speaq.structures import IntArray

Float64Array = NDArray[np.float64]
NEVER = np.iinfo(np.int64).max  # rank of a row that no triplet found


@dataclass(frozen=True)
class Rows:
    """Ground-truth rows of one image or of many; each found first at a rank that counts from 0."""

    predicate: IntArray  # [N]
    zero_shot: NDArray[np.bool_]  # [N] in the zero-shot list
    rank: IntArray  # [N] in the given order of triplets
    unconstrained_rank: IntArray  # [N] among the best (pair, predicate)
    pair_rank: IntArray  # [N] among triplets on ground-truth pairs

    def select(self, rows: IntArray | NDArray[np.bool_] | slice) -> Rows:
        """The rows at these places, or those where a mask [N] is true."""
        return Rows(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class PredicateCells:
    """Found and present rows of every (image, predicate) that occurs, by image and predicate."""

    image: IntArray  # [cells] position of the image
    predicate: IntArray  # [cells]
    hits: IntArray  # [cells]
    rows: IntArray  # [cells] at least 1


@dataclass(frozen=True)
class RecallTable:
    """Images in ascending order of index, and their rows in that order. Every image has at least one row."""

    index: IntArray  # [I] rows of the split
    predicted: NDArray[np.bool_]  # [I] whether the model gave any triplet
    num_rows: IntArray  # [I]
    rows: Rows

    @property
    def image_of_row(self) -> IntArray:
        """[N] position of each row's image."""
        return np.repeat(np.arange(len(self.index)), self.num_rows)

    def images(self) -> list[Rows]:
        """The rows of each image."""
        ends = np.cumsum(self.num_rows)
        return [self.rows.select(slice(end - n, end)) for end, n in zip(ends, self.num_rows, strict=True)]

    def select(self, images: NDArray[np.bool_]) -> RecallTable:
        """The table of some images."""
        rows = self.rows.select(np.repeat(images, self.num_rows))
        return RecallTable(self.index[images], self.predicted[images], self.num_rows[images], rows)

    def recall_per_image(self, rank: IntArray, k: int, among: NDArray[np.bool_] | None = None) -> Float64Array:
        """[I] share of an image's rows (`among` those) whose rank is below k; NaN for an image without such rows."""
        image, found = self.image_of_row, rank < k
        if among is not None:
            image, found = image[among], found[among]
        present = np.bincount(image, minlength=len(self.index))
        hits = np.bincount(image, weights=found, minlength=len(self.index))
        share = np.full(len(present), np.nan)
        np.divide(hits, present, out=share, where=present > 0)
        return share

    @cached_property
    def _cell_of_row(self) -> tuple[IntArray, IntArray]:
        """Every (image, predicate) that occurs as one number, ascending, and [N] which of them each row belongs to."""
        key, inverse = np.unique(self.image_of_row * self._key_base + self.rows.predicate, return_inverse=True)
        return key, inverse

    @property
    def _key_base(self) -> int:
        return int(self.rows.predicate.max(initial=0)) + 1

    def cells(self, k: int, rank: IntArray | None = None) -> PredicateCells:
        """Rows found by the first k triplets, by image and predicate; `rank` [N] is that of the given order if None."""
        key, inverse = self._cell_of_row
        found = (self.rows.rank if rank is None else rank) < k
        hits = np.bincount(inverse, weights=found, minlength=len(key)).astype(np.int64)
        rows = np.bincount(inverse, minlength=len(key))
        return PredicateCells(key // self._key_base, key % self._key_base, hits, rows)

    def recall_per_predicate(
        self, k: int, num_predicates: int, rank: IntArray | None = None
    ) -> tuple[Float64Array, IntArray]:
        """[P] mean over the images with a predicate of its found rows / its rows, 0 where absent; [P] those images."""
        cells = self.cells(k, rank)
        images = np.bincount(cells.predicate, minlength=num_predicates)
        total = np.bincount(cells.predicate, weights=cells.hits / cells.rows, minlength=num_predicates)
        return total / np.maximum(images, 1), images


def make_table(images: Sequence[tuple[int, bool, Rows]]) -> RecallTable:
    """A table of (index, predicted, rows), whatever their order."""
    ordered = sorted(images, key=lambda image: image[0])
    index = np.array([image[0] for image in ordered], dtype=np.int64)
    predicted = np.array([image[1] for image in ordered], dtype=np.bool_)
    num_rows = np.array([len(image[2].predicate) for image in ordered], dtype=np.int64)
    return RecallTable(index, predicted, num_rows, _join([image[2] for image in ordered]))


def _join(parts: Sequence[Rows]) -> Rows:
    return Rows(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            if parts
            else np.zeros(0, dtype=np.bool_ if f.name == "zero_shot" else np.int64)
            for f in fields(Rows)
        }
    )
