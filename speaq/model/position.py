"""Where things are: padding masks at the feature level and the sine position encoding (method section 2).

Letters: B images, H x W cells, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURE = 10_000.0
EPSILON = 1e-6


def padding_mask(sizes_hw: Tensor, cells_hw: Sequence[int], stride: int) -> Tensor:
    """The cells, or pixels, that lie wholly beyond their image: rows ≥ ceil(h / stride) or columns ≥ ceil(w / stride).

    Args:
        sizes_hw: [B, 2] int64 un-padded height and width, pixels.
        cells_hw: rows and columns of the feature map.
        stride: pixels per cell.

    Returns:
        [B, H, W] bool, True is padding.
    """
    rows, columns = (torch.arange(n, device=sizes_hw.device) * stride for n in cells_hw)
    below = rows[None, :, None] >= sizes_hw[:, 0, None, None]
    beside = columns[None, None, :] >= sizes_hw[:, 1, None, None]
    return below | beside


def sine_position(padding: Tensor, channels: int) -> Tensor:
    """Sine encoding of every cell's place among the un-padded cells; the first half of the channels is y, then x.

    Args:
        padding: [B, H, W] bool, True is padding.
        channels: d, a multiple of 4.

    Returns:
        [B, H, W, d] float32 in [-1, 1].
    """
    inside = (~padding).to(torch.float32)
    exponent = torch.arange(channels // 4, dtype=torch.float32, device=padding.device) * (4 / channels)
    return torch.cat([_encode(_share(inside, axis), TEMPERATURE**exponent) for axis in (1, 2)], dim=-1)


def _share(inside: Tensor, axis: int) -> Tensor:
    """[B, H, W] running count of un-padded cells along an axis, as a share of all of them, times 2 pi."""
    count = inside.cumsum(axis)
    total = count.narrow(axis, count.shape[axis] - 1, 1)
    return count / (total + EPSILON) * (2 * math.pi)


def _encode(angle: Tensor, period: Tensor) -> Tensor:
    """[B, H, W] → [B, H, W, d/2], sine and cosine in turn."""
    scaled = angle[..., None] / period  # [B, H, W, d/4]
    return torch.stack((scaled.sin(), scaled.cos()), dim=-1).flatten(-2)


def pad_cells(pictures: Sequence[Tensor]) -> Tensor:
    """B maps [h, w, c] of at least one picture → [B, H, W, c], padded with 0 at the lower right to the largest."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    first = pictures[0]
    padded = first.new_zeros((len(pictures), height, width, first.shape[-1]))
    for row, picture in zip(padded, pictures, strict=True):
        row[: picture.shape[0], : picture.shape[1]] = picture
    return padded
