"""Box arithmetic: round trips, ranges, and agreement with torchvision."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from speaq import boxes

coordinate = st.floats(0, 1, width=32)


@st.composite
def box_lists(draw: st.DrawFn) -> Tensor:
    """[n, 4] float64 cxcywh with sizes of at least 0.01."""
    rows = draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=1, max_size=6))
    values = torch.tensor(rows, dtype=torch.float64)
    return torch.cat((values[:, :2], 0.01 + values[:, 2:]), dim=1)


@given(box_lists())
def test_layouts_round_trip(cxcywh: Tensor) -> None:
    assert torch.allclose(boxes.xyxy_to_cxcywh(boxes.cxcywh_to_xyxy(cxcywh)), cxcywh)


@given(box_lists(), box_lists())
def test_iou_and_giou_agree_with_torchvision_and_stay_in_range(a: Tensor, b: Tensor) -> None:
    a, b = boxes.cxcywh_to_xyxy(a), boxes.cxcywh_to_xyxy(b)
    iou, giou = boxes.iou(*boxes.pairwise(a, b)), boxes.giou(*boxes.pairwise(a, b))
    assert torch.allclose(iou, box_iou(a, b))
    assert torch.allclose(giou, generalized_box_iou(a, b))
    assert iou.min() >= 0
    assert iou.max() <= 1 + 1e-12
    assert giou.min() >= -1
    assert (giou <= iou + 1e-12).all()


def test_empty_boxes_give_zero_and_finite_gradients() -> None:
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]], requires_grad=True)
    value = boxes.iou(point, point) + boxes.giou(point, point)
    value.sum().backward()
    assert value.item() == 0
    assert point.grad is not None
    assert torch.isfinite(point.grad).all()


@given(box_lists(), st.integers(1, 50), st.integers(1, 50))
def test_clipped_boxes_lie_in_the_image(cxcywh: Tensor, height: int, width: int) -> None:
    clipped = boxes.clip(100 * boxes.cxcywh_to_xyxy(cxcywh) - 20, (height, width))
    assert clipped.min() >= 0
    assert (clipped[:, 0::2] <= width).all()
    assert (clipped[:, 1::2] <= height).all()
