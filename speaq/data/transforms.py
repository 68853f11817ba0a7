"""Augmentation and resizing of a picture together with its annotations (method section 1).

Letters: h, w picture height and width; N boxes; M relations. Nothing here draws on global random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from speaq.config import DataConfig
from speaq.structures import FloatArray, IntArray, Pending, Resize, Window

SMALLEST_SIDE = 1e-5  # pixels; boxes that are thinner after clipping are dropped in training
Size = tuple[int, int]


@dataclass(frozen=True)
class Picture:
    """A picture and its annotations in its own pixels; the image is never written to."""

    image: NDArray[np.uint8]  # [h, w, 3] RGB
    boxes_xyxy: FloatArray  # [N, 4] pixels
    classes: IntArray  # [N]
    relations: IntArray  # [M, 3] rows (subject box, object box, predicate)
    pending: Pending = ()  # what `finish` is to do to the image yet; the annotations have it behind them

    @property
    def size_hw(self) -> Size:
        """Height and width with all that is pending."""
        return self.pending[-1].size_hw if self.pending else (self.image.shape[0], self.image.shape[1])


def train_transform(picture: Picture, config: DataConfig, rng: np.random.Generator, *, enlarge: bool = True) -> Picture:
    """Random flip, random crop, random size; boxes are clipped, and empty ones go with their relations.

    Args:
        picture: of any size, at least 1 × 1.
        config: probabilities, sides and windows; pixels.
        rng: the only source of chance, so equal generators give equal pictures.
        enlarge: False leaves the first resize that makes the picture larger, and all that follows, pending.
    Returns:
        At most `train_max_side` pixels on the longest side; may be left without boxes or relations.
    """
    return drop_empty_boxes(augment(picture, config, rng, enlarge=enlarge))


def augment(picture: Picture, config: DataConfig, rng: np.random.Generator, *, enlarge: bool = True) -> Picture:
    """`train_transform`, with the boxes that have become empty."""
    if rng.random() < config.flip_probability:
        picture = flip(picture)
    if rng.random() < config.crop_probability:
        picture = random_crop(picture, config, rng, enlarge=enlarge)
    size_hw = resize_shape(picture.size_hw, _choice(config.train_sides, rng), config.train_max_side)
    return clip_boxes(resize_quickly(picture, size_hw, enlarge=enlarge))


def eval_transform(picture: Picture, config: DataConfig) -> Picture:
    """Resizes to the evaluation size and clips the boxes; every box and relation is kept. Golden `g9_test_mapper`."""
    size_hw = resize_shape(picture.size_hw, config.eval_side, config.eval_max_side)
    return clip_boxes(resize(picture, size_hw))


def resize_shape(size_hw: Size, side: int, max_side: int | None) -> Size:
    """Height and width after the shortest side became `side`, or less where the longest would exceed `max_side`.

    Rounded half up, at least 1. Golden `g9_resize_shapes`.
    """
    scale = side / min(size_hw)
    # The shorter side is set rather than scaled, as the reference does: scaling could round it elsewhere.
    height, width = (float(side) if length == min(size_hw) else length * scale for length in size_hw)
    if max_side is not None and max(height, width) > max_side:
        shrink = max_side / max(height, width)
        height, width = height * shrink, width * shrink
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def flip(picture: Picture) -> Picture:
    """Mirrors left and right."""
    width = picture.size_hw[1]
    boxes = picture.boxes_xyxy[:, [2, 1, 0, 3]]
    boxes[:, [0, 2]] = width - boxes[:, [0, 2]]
    image = torch.from_numpy(picture.image).flip(1).numpy()  # thirty times as fast as NumPy's copy of a reversed view
    return replace(picture, image=image, boxes_xyxy=boxes)


def resize(picture: Picture, size_hw: Size) -> Picture:
    """Bilinear with support that grows when shrinking (Pillow's); the same object where the size does not change."""
    if size_hw == picture.size_hw:
        return picture
    height, width = size_hw
    image = np.array(Image.fromarray(picture.image).resize((width, height), Image.Resampling.BILINEAR))
    return replace(picture, image=image, boxes_xyxy=scale_boxes(picture.boxes_xyxy, picture.size_hw, size_hw))


def resize_quickly(picture: Picture, size_hw: Size, *, enlarge: bool = True) -> Picture:
    """`resize` by PyTorch's kernel, for training: four times as fast, and at most one grey level off Pillow's.

    With `enlarge` False a picture that gets more pixels, or has something pending, is left for `finish`.
    """
    if size_hw == picture.size_hw:
        return picture
    boxes = scale_boxes(picture.boxes_xyxy, picture.size_hw, size_hw)
    if picture.pending or (not enlarge and math.prod(size_hw) > math.prod(picture.size_hw)):
        return replace(picture, boxes_xyxy=boxes, pending=(*picture.pending, Resize(size_hw)))
    return replace(picture, image=finish(torch.from_numpy(picture.image), (Resize(size_hw),)).numpy(), boxes_xyxy=boxes)


def finish(image: Tensor, pending: Pending) -> Tensor:
    """[h, w, 3] uint8 → the same after all steps, on the image's device. Devices differ by at most one grey level."""
    for step in pending:
        if isinstance(step, Window):
            image = image[step.top :, step.left :][: step.size_hw[0], : step.size_hw[1]]
        else:
            image = _interpolate(image.permute(2, 0, 1)[None], step.size_hw)[0].permute(1, 2, 0)
    return image


def _interpolate(pixels: Tensor, size_hw: Size) -> Tensor:
    """[1, 3, h, w] uint8 in channels-last memory → [1, 3, H, W]. CUDA has no kernel for integers."""
    if pixels.device.type == "cpu":
        return F.interpolate(pixels, size_hw, mode="bilinear", antialias=True)
    values = F.interpolate(pixels.float(), size_hw, mode="bilinear", antialias=True)
    return values.round_().clamp_(0, 255).to(torch.uint8)


def random_crop(picture: Picture, config: DataConfig, rng: np.random.Generator, *, enlarge: bool = True) -> Picture:
    """Resizes the shortest side to one of `crop_sides` and cuts out a random window, bounded by the picture.

    Boxes are moved but not yet clipped, so they may lie outside. `enlarge` as in `resize_quickly`.
    """
    full = resize_shape(picture.size_hw, _choice(config.crop_sides, rng), None)
    smallest, largest = config.crop_window
    height, width = (int(rng.integers(min(length, smallest), min(length, largest) + 1)) for length in full)
    top, left = (int(rng.integers(n - part + 1)) for n, part in zip(full, (height, width), strict=True))
    resized = resize_quickly(picture, full, enlarge=enlarge)
    boxes = resized.boxes_xyxy - np.array((left, top, left, top), np.float32)
    if resized.pending:
        return replace(resized, boxes_xyxy=boxes, pending=(*resized.pending, Window(top, left, (height, width))))
    return replace(resized, boxes_xyxy=boxes, image=resized.image[top : top + height, left : left + width])


def clip_boxes(picture: Picture) -> Picture:
    """Moves corners into the picture."""
    height, width = picture.size_hw
    limit = np.array((width, height, width, height), np.float32)
    return replace(picture, boxes_xyxy=np.minimum(np.maximum(picture.boxes_xyxy, 0), limit))


def drop_empty_boxes(picture: Picture) -> Picture:
    """Drops boxes with a side of at most `SMALLEST_SIDE` and their relations; the others are re-indexed."""
    sides = picture.boxes_xyxy[:, 2:] - picture.boxes_xyxy[:, :2]
    kept = np.asarray((sides > SMALLEST_SIDE).all(axis=1))
    if kept.all():
        return picture
    pairs = picture.relations[:, :2]
    relations = picture.relations[kept[pairs].all(axis=1)]
    relations[:, :2] = (np.cumsum(kept) - 1)[relations[:, :2]]
    return replace(picture, boxes_xyxy=picture.boxes_xyxy[kept], classes=picture.classes[kept], relations=relations)


def scale_boxes(boxes_xyxy: FloatArray, old_hw: Size, new_hw: Size) -> FloatArray:
    """[N, 4] pixels of a picture → pixels of the same picture in another size; the same numbers in the same size."""
    across, down = new_hw[1] / old_hw[1], new_hw[0] / old_hw[0]
    return boxes_xyxy * np.array((across, down, across, down), np.float32)


def _choice(values: Sequence[int], rng: np.random.Generator) -> int:
    return values[int(rng.integers(len(values)))]
