"""Batches of stored features: the same pictures, targets and order as from the photos, without a photo."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speaq.config import Config
from speaq.data.dataset import AUGMENTATION, SceneGraphDataset, Unpadded, beside_images, mover, to_sample
from speaq.data.features import StoredSplit
from speaq.data.transforms import Picture, drop_empty_boxes
from speaq.data.visual_genome import Split
from speaq.model.position import pad_cells
from speaq.structures import Batch, Resize, Sample

VIEW = 2  # keeps the random streams of augmented views apart from other draws
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True, kw_only=True)
class StoredBatch(Unpadded):
    """A batch before its features are padded, which their device does."""

    cells: list[Tensor]  # B [h, w, d] float32

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        move = mover(device)
        return self.with_images(pad_cells([move(cells) for cells in self.cells]), move, encoded=True)


class StoredSamples:
    """Samples of a split with features, by the draws of `SceneGraphDataset`; their images are empty."""

    def __init__(self, split: Split, config: Config, *, train: bool) -> None:
        assert split.features is not None
        self._photos = SceneGraphDataset(split, config.data, train, config.seed)  # which says what a draw learns
        self._split, self._train, self._seed = split, train, config.seed
        self._features: StoredSplit = split.features

    def with_cells(self, draw: int | tuple[int, int]) -> tuple[Sample, Tensor]:
        """A sample, and the features of the view that is drawn."""
        index, number = draw if isinstance(draw, tuple) else (draw, draw)
        entry = self._features.entry(self._split.image_id(index), self._view(number))
        original_hw = self._features.original_hw(entry)
        graph = self._split.scene_graph(index, original_hw)
        size = (Resize(self._features.size_hw(entry)),)
        picture = Picture(NO_IMAGE, self._features.boxes_xyxy(entry), graph.classes, graph.relations, size)
        if self._train:
            rng = np.random.default_rng((self._seed, AUGMENTATION, number))
            picture = drop_empty_boxes(self._photos.pick_relations(picture, index, rng))
        return to_sample(index, picture, original_hw), self._features.cells(entry)

    def _view(self, number: int) -> int:
        if not self._train or self._features.views == 1:
            return 0
        return int(np.random.default_rng((self._seed, VIEW, number)).integers(self._features.views))


def stored_batches(split: Split, config: Config, batches: Iterable[list[Any]], *, train: bool) -> Iterator[StoredBatch]:
    """The batches of these draws, one after the other. Raises DataError where a file of features is damaged."""
    samples = StoredSamples(split, config, train=train)
    for draws in batches:
        some, cells = zip(*map(samples.with_cells, draws), strict=True)
        yield StoredBatch(cells=list(cells), **beside_images(some))
