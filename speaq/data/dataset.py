"""Splits → samples → batches, in this process or in decoding workers.

Letters: B images of a batch, N boxes, M relations. Which images a batch holds and how they are augmented depends on
the seed and the position alone: not on the number of workers, nor on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from speaq.config import DataConfig
from speaq.data.images import read_image
from speaq.data.sampling import drop_relations, make_resampling, one_predicate_per_pair
from speaq.data.transforms import Picture, eval_transform, finish, scale_boxes, train_transform
from speaq.data.visual_genome import Split
from speaq.structures import Batch, Pending, Sample, Targets, split_by_counts
from speaq.targets import join, make_target

AUGMENTATION = 1  # keeps the random streams of draws apart from those of the order of epochs


class SceneGraphDataset(Dataset[Sample]):
    """Samples of a split, augmented (train) or as they are evaluated.

    Training draws are named (row, draw number): the draw number seeds the augmentation, the choice of one predicate
    for each pair and the dropout of relations. A row alone stands for (row, row).
    """

    def __init__(self, split: Split, config: DataConfig, train: bool, seed: int = 0, *, enlarge: bool = True) -> None:
        """`enlarge` as in `train_transform`: False where the device is to do it."""
        self._split, self._config, self._train, self._seed = split, config, train, seed
        self._enlarge = enlarge
        self._resampling = None
        if train and config.resampling != "none":
            self._resampling = make_resampling(split, config.oversample, config.undersample)
        self._shortest_side = largest_side(config, train) if config.reduced_decoding else None
        size = (self._shortest_side or 0, *(() if train else (config.eval_side, config.eval_max_side)))
        self._pictures = split.pictures.setdefault(size, {}) if config.cache_images else None

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, draw: int | tuple[int, int]) -> Sample:
        """Raises `DataError`, naming the file, where the photo cannot be read."""
        index, number = draw if isinstance(draw, tuple) else (draw, draw)
        picture = self.picture(index)
        original_hw = self._split.size_hw(index)
        if self._train:
            rng = np.random.default_rng((self._seed, AUGMENTATION, number))
            picture = self.pick_relations(picture, index, rng)
            picture = train_transform(picture, self._config, rng, enlarge=self._enlarge)
        return to_sample(index, picture, original_hw)

    def picture(self, index: int) -> Picture:
        """The picture as it is before augmentation, or ready for evaluation; from memory where it is kept there."""
        if self._pictures is not None and index in self._pictures:
            return self._pictures[index]
        image = read_image(self._split.image_path(index), self._shortest_side)
        size_hw = image.shape[0], image.shape[1]
        graph = self._split.scene_graph(index, size_hw if self._shortest_side is None else None)
        picture = Picture(image, scale_boxes(graph.boxes_xyxy, graph.size_hw, size_hw), graph.classes, graph.relations)
        if not self._train:
            picture = eval_transform(picture, self._config)
        if self._pictures is not None:
            self._pictures[index] = picture
        return picture

    def pick_relations(self, picture: Picture, index: int, rng: np.random.Generator) -> Picture:
        """A training picture with the relations that this draw learns: one predicate of each pair of boxes."""
        relations = picture.relations
        if self._resampling is not None:
            relations = drop_relations(relations, self._resampling.drop_probabilities(index), rng)
        return replace(picture, relations=one_predicate_per_pair(relations, rng))


def largest_side(config: DataConfig, train: bool) -> int:
    """To which a shortest side may be resized, pixels."""
    if not train:
        return config.eval_side
    return max(config.train_sides + (config.crop_sides if config.crop_probability else ()))


def to_sample(index: int, picture: Picture, original_hw: tuple[int, int]) -> Sample:
    """A picture as tensors, which share its memory; `index` is its row of the split."""
    return Sample(
        index=index,
        image=torch.from_numpy(picture.image),
        boxes_xyxy=torch.from_numpy(picture.boxes_xyxy),
        classes=torch.from_numpy(picture.classes),
        relations=torch.from_numpy(picture.relations),
        original_hw=original_hw,
        pending=picture.pending,
    )


def collate(samples: list[Sample]) -> Batch:
    """Pads the images of at least one sample with 0 to their largest height and width, in channels-last memory."""
    return gather(samples).to(torch.device("cpu"))


def gather(samples: list[Sample]) -> RawBatch:
    """The images of at least one sample one behind the other, as they are: what a decoding worker sends."""
    return RawBatch(
        pixels=torch.cat([sample.image.reshape(-1) for sample in samples]),
        shapes_hw=[(sample.image.shape[0], sample.image.shape[1]) for sample in samples],
        pending=[sample.pending for sample in samples],
        **beside_images(samples),
    )


def mover(device: torch.device) -> Callable[[Tensor], Tensor]:
    """What moves a tensor to a device; a copy from pinned memory is not waited for."""
    return lambda tensor: tensor.to(device, non_blocking=True)


def beside_images(samples: Sequence[Sample]) -> dict[str, Any]:
    """The fields of an `Unpadded` of at least one sample."""
    return {
        "sizes_hw": torch.tensor([sample.size_hw for sample in samples]),
        "targets": join([make_target(sample) for sample in samples]),
        "indices": [sample.index for sample in samples],
        "original_hw": [sample.original_hw for sample in samples],
    }


@dataclass(frozen=True, kw_only=True)
class Unpadded:
    """What a batch has beside its images, which are not padded yet."""

    sizes_hw: Tensor  # [B, 2] int64 height and width of the images as the network sees them, pixels
    targets: Targets
    indices: list[int]  # B rows of the split
    original_hw: list[tuple[int, int]]  # B true heights and widths of the files' pictures

    def with_images(self, images: Tensor, move: Callable[[Tensor], Tensor], *, encoded: bool = False) -> Batch:
        """The batch on a device. Arguments: padded images there, as of a `Batch`; what moves a tensor there."""
        return Batch(
            images=images,
            sizes_hw=move(self.sizes_hw),
            targets=self.targets.mapped(move),
            indices=self.indices,
            original_hw=self.original_hw,
            encoded=encoded,
        )


@dataclass(frozen=True, kw_only=True)
class RawBatch(Unpadded):
    """A batch before its images are resized and padded, which its device does."""

    pixels: Tensor  # [sum of h w 3] uint8 RGB
    shapes_hw: list[tuple[int, int]]  # B heights and widths in `pixels`
    pending: list[Pending]  # B; `sizes_hw` has it behind it

    def to(self, device: torch.device) -> Batch:
        """One transfer for all images, then `finish` and padding there."""
        move = mover(device)
        images = split_by_counts(move(self.pixels), [h * w * 3 for h, w in self.shapes_hw])
        height, width = self.sizes_hw.max(dim=0).values.tolist()
        padded = torch.zeros((len(images), height, width, 3), dtype=torch.uint8, device=device)
        for row, image, shape_hw, pending in zip(padded, images, self.shapes_hw, self.pending, strict=True):
            finished = finish(image.view(*shape_hw, 3), pending)
            row[: finished.shape[0], : finished.shape[1]] = finished
        return self.with_images(padded.permute(0, 3, 1, 2), move)

    def mapped(self, function: Callable[[Any], Any]) -> RawBatch:
        """The same with what `function` makes of each tensor."""
        targets = self.targets.mapped(function)
        return replace(self, pixels=function(self.pixels), sizes_hw=function(self.sizes_hw), targets=targets)

    def pin_memory(self) -> RawBatch:
        """The same with the pixels in pinned memory; the other tensors are small."""
        return replace(self, pixels=self.pixels.pin_memory())
