"""Which image is drawn when: resampling data sets, and batches of one orientation.

Letters: I images of the split, M relations, P predicates, B images of a batch over all workers.
Source: method section 1. The order of draws is a function of the seed alone, so neither the number of workers nor an
interruption changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.records import Split
from speaq.data.statistics import predicate_count
from speaq.structures import IntArray

DoubleArray = NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """How often images are repeated, and how likely their frequent relations are dropped."""

    ratio: DoubleArray  # [P] at least 1; above it for predicates rarer than `oversample`
    repeats: IntArray  # [I] at least 1
    undersample: float

    def drop_probabilities(self, index: int) -> DoubleArray:
        """[P] in [0, 1]: the chance that a relation of image `index` with predicate p is dropped when it is drawn."""
        repeat = self.repeats[index]
        probabilities: DoubleArray = np.clip((repeat - self.ratio) / repeat * self.undersample, 0.0, 1.0)
        return probabilities


def make_resampling(split: Split, oversample: float, undersample: float) -> Resampling:
    """Repeats and drop probabilities of both resampling data sets from the split's own predicate frequencies.

    An image without relations is drawn once. Golden `g9_bgnn_*`.
    """
    frequency = predicate_count(split, split.num_predicates)[:-1] / max(len(split.relations), 1)
    ratio = np.maximum(np.sqrt(oversample / (frequency + 1e-5)), 1.0)
    largest = np.ones(len(split))
    np.maximum.at(largest, split.relation_image, ratio[split.relations[:, 2]])
    return Resampling(ratio, np.ceil(largest).astype(np.int64), undersample)


def drop_relations(relations: IntArray, probabilities: DoubleArray, rng: np.random.Generator) -> IntArray:
    """Keeps each row of [M, 3] with one minus its predicate's probability ([P]); may leave none."""
    return relations[probabilities[relations[:, 2]] < rng.random(len(relations))]


def one_predicate_per_pair(relations: IntArray, rng: np.random.Generator) -> IntArray:
    """Keeps one random row of [M, 3] for every (subject, object) pair, in the order of the rows.

    Rows listed twice count twice in the draw.
    """
    shuffled = rng.permutation(len(relations))
    pair = relations[:, 0] * (relations[:, 1].max(initial=0) + 1) + relations[:, 1]
    _, first = np.unique(pair[shuffled], return_index=True)
    return relations[np.sort(shuffled[first])]


class _ImagesOfPredicates:
    """The images that contain each predicate."""

    def __init__(self, split: Split) -> None:
        if not len(split.relations):
            raise DataError("data.resampling: class_balanced: no train image has a relation")
        pairs = np.unique(split.relations[:, 2].astype(np.int64) * len(split) + split.relation_image)
        self._images = pairs % len(split)
        _, self._start, self._size = np.unique(pairs // len(split), return_index=True, return_counts=True)

    def draw(self, num_draws: int, rng: np.random.Generator) -> IntArray:
        """[num_draws] rows: a predicate uniformly of those that occur, then an image that contains it."""
        predicate = rng.integers(len(self._start), size=num_draws)
        rows: IntArray = self._images[self._start[predicate] + rng.integers(self._size[predicate])]
        return rows


class DrawOrder:
    """The rows that an epoch draws, in order; a function of (seed, epoch)."""

    def __init__(self, split: Split, config: DataConfig, seed: int) -> None:
        """Raises `DataError` for class-balanced resampling of a split without relations."""
        self._seed = seed
        self._rows = np.arange(len(split), dtype=np.int64)
        self._by_predicate = _ImagesOfPredicates(split) if config.resampling == "class_balanced" else None
        if config.resampling == "bilevel":
            repeats = make_resampling(split, config.oversample, config.undersample).repeats
            self._rows = np.repeat(self._rows, repeats)

    def epoch(self, epoch: int) -> IntArray:
        """Rows of the split; as many as the split has images, times their repeats with bi-level resampling."""
        rng = np.random.default_rng((self._seed, epoch))
        if self._by_predicate is not None:
            return self._by_predicate.draw(len(self._rows), rng)
        return rng.permutation(self._rows)


class OrientationBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (row of the split, draw number), all landscape (w > h) or all not.

    Images wait until their orientation fills a batch, over the ends of epochs, so every batch is full. The draw number
    is unique and seeds that draw's augmentation. Batch i over all workers does not depend on `world_size`; each rank
    takes every world_size-th image of it, in pieces of `micro_batch_size`.
    """

    def __init__(
        self,
        split: Split,
        config: DataConfig,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        """`batch_size` is over all workers; `start_batch` batches count as consumed (exact resume)."""
        share = batch_size // world_size
        assert len(split) > 0
        assert 0 <= rank < world_size
        assert batch_size == share * world_size
        assert micro_batch_size is None or share % micro_batch_size == 0
        self._order = DrawOrder(split, config, seed)
        self._landscape = split.landscape
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._micro, self._start = micro_batch_size or share, start_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._global_batches():
            mine = [(int(row), int(draw)) for row, draw in batch[self._rank :: self._world_size]]
            for start in range(0, len(mine), self._micro):
                yield mine[start : start + self._micro]

    def _global_batches(self) -> Iterator[IntArray]:
        """[B, 2] (row, draw) of every batch from the start position on."""
        skip, num_draws = self._start, 0
        waiting = [np.empty((0, 2), np.int64), np.empty((0, 2), np.int64)]
        for epoch in count():
            rows = self._order.epoch(epoch)
            draws = np.stack((rows, num_draws + np.arange(len(rows))), axis=1)
            num_draws += len(rows)
            batches = self._fill(draws, waiting)
            yield from batches[skip:]
            skip = max(0, skip - len(batches))

    def _fill(self, draws: IntArray, waiting: list[IntArray]) -> IntArray:
        """Full batches [n, B, 2] in the order in which their last image is drawn; updates `waiting` in place."""
        full = []
        for orientation in (0, 1):
            queue = np.concatenate((waiting[orientation], draws[self._landscape[draws[:, 0]] == orientation]))
            num_full = len(queue) // self._batch_size
            full.append(queue[: num_full * self._batch_size].reshape(num_full, self._batch_size, 2))
            waiting[orientation] = queue[num_full * self._batch_size :]
        batches = np.concatenate(full)
        return batches[np.argsort(batches[:, -1, 1])]
