from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speaq.boxes import cxcywh_to_xyxy
from speaq.structures import Sample
from speaq.targets import make_target, spanned_boxes


def sample(size_hw: tuple[int, int], boxes_xyxy: list[list[float]], relations: list[list[int]]) -> Sample:
    return Sample(
        index=0,
        image=torch.zeros(*size_hw, 3, dtype=torch.uint8),
        boxes_xyxy=torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4),
        classes=torch.arange(len(boxes_xyxy)),
        relations=torch.tensor(relations, dtype=torch.int64).reshape(-1, 3),
        original_hw=size_hw,
    )


def test_boxes_are_normalised_by_width_and_height() -> None:
    target = make_target(sample((100, 200), [[0, 0, 100, 50], [100, 50, 200, 100]], [[0, 1, 7]]))
    assert target.boxes.tolist() == [[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]
    assert target.relation_boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert target.relations.tolist() == [[0, 1, 7]]
    assert target.classes.tolist() == [0, 1]


def test_a_relation_box_without_width_or_height_is_the_subjects() -> None:
    boxes = [[10, 10, 30, 30], [10, 50, 30, 90], [60, 10, 80, 30]]
    target = make_target(sample((100, 100), boxes, [[0, 1, 0], [1, 0, 0], [2, 0, 0], [0, 0, 0], [1, 2, 0]]))
    for row, subject in enumerate((0, 1, 2, 0)):
        assert torch.equal(target.relation_boxes[row], target.boxes[subject])
    assert not torch.equal(target.relation_boxes[4], target.boxes[1])


def test_the_threshold_is_in_pixels_not_in_shares_of_the_image() -> None:
    """Two centres 1e-3 pixels apart span a box even where that is 1e-6 of the image."""
    centres = torch.tensor([[5.0, 5.0, 4.0, 4.0], [5.001, 9.0, 4.0, 4.0]])
    assert spanned_boxes(centres[:1], centres[1:])[0, 2] < 0.0011
    assert torch.equal(spanned_boxes(centres[:1], centres[:1]), centres[:1])


def test_images_without_relations_or_boxes_give_empty_targets() -> None:
    without_relations = make_target(sample((40, 60), [[0, 0, 20, 20]], []))
    assert without_relations.boxes.shape == (1, 4)
    assert without_relations.relation_boxes.shape == (0, 4)
    empty = make_target(sample((40, 60), [], []))
    assert empty.boxes.shape == (0, 4)
    assert empty.relations.shape == (0, 3)


@st.composite
def images(draw: st.DrawFn) -> tuple[tuple[int, int], Tensor]:
    size_hw = draw(st.tuples(st.integers(8, 900), st.integers(8, 900)))
    height, width = size_hw
    corner = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
    corners = draw(st.lists(st.tuples(corner, corner), min_size=2, max_size=6))
    boxes = torch.tensor(corners) * torch.tensor([width, height])
    return size_hw, torch.cat((boxes.amin(1), boxes.amax(1)), dim=1)


@given(images())
@settings(deadline=None)
def test_targets_lie_in_the_image_and_relation_boxes_do_not_depend_on_direction(
    image: tuple[tuple[int, int], Tensor],
) -> None:
    size_hw, boxes = image
    target = make_target(sample(size_hw, boxes.tolist(), [[0, 1, 0], [1, 0, 0]]))
    for corners in (cxcywh_to_xyxy(target.boxes), cxcywh_to_xyxy(target.relation_boxes)):
        assert bool((corners >= -1e-5).all())
        assert bool((corners <= 1 + 1e-5).all())
    pixels = (target.boxes[0, :2] - target.boxes[1, :2]).abs() * torch.tensor(size_hw[::-1])
    if bool((pixels > 1e-2).all()):
        torch.testing.assert_close(target.relation_boxes[0], target.relation_boxes[1])


@given(images(), st.integers(2, 5))
@settings(deadline=None)
def test_targets_do_not_depend_on_the_image_scale(image: tuple[tuple[int, int], Tensor], factor: int) -> None:
    size_hw, boxes = image
    small = make_target(sample(size_hw, boxes.tolist(), []))
    large = make_target(sample((factor * size_hw[0], factor * size_hw[1]), (factor * boxes).tolist(), []))
    torch.testing.assert_close(small.boxes, large.boxes)
