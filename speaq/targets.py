"""Ground truth of samples → normalised training targets (method section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speaq.boxes import xyxy_to_cxcywh
from speaq.structures import Sample, Target, Targets

SMALLEST_SIDE = 1e-5  # pixels; a thinner relation box is replaced by the subject's


def make_target(sample: Sample) -> Target:
    """Normalises boxes by the sample's image and adds the box spanned by the centres of every relation.

    Args:
        sample: boxes xyxy in pixels of its image; relations index its boxes.
    Returns:
        Boxes cxcywh in [0, 1] of the image; an image without boxes or relations gives empty tensors.
    """
    height, width = sample.size_hw
    size = sample.boxes_xyxy.new_tensor((width, height, width, height))
    boxes = xyxy_to_cxcywh(sample.boxes_xyxy)  # [N, 4] pixels
    relation_boxes = spanned_boxes(boxes[sample.relations[:, 0]], boxes[sample.relations[:, 1]])
    return Target(sample.classes, boxes / size, sample.relations, relation_boxes / size)


def join(targets: Sequence[Target]) -> Targets:
    """The targets of at least one image in columns."""
    return Targets(
        classes=torch.cat([target.classes for target in targets]),
        boxes=torch.cat([target.boxes for target in targets]),
        relations=torch.cat([target.relations for target in targets]),
        relation_boxes=torch.cat([target.relation_boxes for target in targets]),
        num_boxes=tuple(len(target.classes) for target in targets),
        num_relations=tuple(len(target.relations) for target in targets),
    )


def spanned_boxes(subject_boxes: Tensor, object_boxes: Tensor) -> Tensor:
    """Boxes whose opposite corners are the two centres.

    Args:
        subject_boxes, object_boxes: [M, 4] cxcywh in pixels.
    Returns:
        [M, 4] cxcywh in pixels; the subject's box where a side would be at most 1e-5 pixels (method section 3).
    """
    subject_centres, object_centres = subject_boxes[:, :2], object_boxes[:, :2]
    sides = (subject_centres - object_centres).abs()
    spanned = torch.cat(((subject_centres + object_centres) / 2, sides), dim=1)
    degenerate = (sides <= SMALLEST_SIDE).any(dim=1, keepdim=True)
    return torch.where(degenerate, subject_boxes, spanned)
