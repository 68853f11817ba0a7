"""Box arithmetic. `cxcywh` and `xyxy` tensors are [..., 4]; IoU and GIoU take `xyxy`."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] centre, size → corners."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] corners → centre, size."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)


def area(boxes_xyxy: Tensor) -> Tensor:
    """[..., 4] → [...], width times height."""
    return (boxes_xyxy[..., 2] - boxes_xyxy[..., 0]) * (boxes_xyxy[..., 3] - boxes_xyxy[..., 1])


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    return intersection, area(a) + area(b) - intersection


def iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Elementwise IoU of two broadcastable [..., 4] tensors → [...] in [0, 1]; two empty boxes give 0."""
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Elementwise generalised IoU of two broadcastable [..., 4] tensors → [...] in [-1, 1].

    Where the union or the hull is empty its term is 0. Source: Rezatofighi et al., CVPR 2019.
    """
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    tiny = torch.finfo(union.dtype).tiny
    overlap = torch.where(union > 0, intersection / union.clamp(min=tiny), 0.0)
    size = (torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])).clamp(
        min=0
    )
    hull = size[..., 0] * size[..., 1]
    return overlap - torch.where(hull > 0, (hull - union) / hull.clamp(min=tiny), 0.0)


def pairwise(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """[..., n, 4] and [..., m, 4] → views that broadcast to [..., n, m, 4]."""
    return a.unsqueeze(-2), b.unsqueeze(-3)


def clip(boxes_xyxy: Tensor, size_hw: tuple[float, float]) -> Tensor:
    """Corners moved into an image of the given height and width, pixels."""
    height, width = size_hw
    limit = boxes_xyxy.new_tensor((width, height, width, height))
    return torch.minimum(boxes_xyxy.clamp(min=0), limit)
