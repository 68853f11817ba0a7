"""G8: ground truth of an image → normalised targets."""

from __future__ import annotations

import torch

from speaq.boxes import giou, xyxy_to_cxcywh
from speaq.structures import Sample
from speaq.targets import make_target
from tests.golden.case import Case, Check, compare


def run(case: Case) -> list[Check]:
    return [check for image in range(case.config["images"]) for check in check_image(case, image)]


def check_image(case: Case, image: int) -> list[Check]:
    height, width = case.arrays[f"in.{image}.image_hw"].tolist()
    sample = Sample(
        index=image,
        image=torch.zeros(height, width, 3, dtype=torch.uint8),
        boxes_xyxy=case.tensor(f"in.{image}.gt_boxes"),
        classes=case.tensor(f"in.{image}.gt_classes"),
        relations=case.tensor(f"in.{image}.relations"),
        original_hw=(height, width),
    )
    target = make_target(sample)
    subject, object_, predicate = target.relations.unbind(1)
    first, second = sample.boxes_xyxy[subject], sample.boxes_xyxy[object_]
    corners = torch.cat((torch.minimum(first[:, :2], second[:, :2]), torch.maximum(first[:, 2:], second[:, 2:])), dim=1)
    size = torch.tensor((width, height, width, height))
    results = [
        ("labels", "exact", predicate),
        ("relation_labels", "exact", predicate),
        ("image_relations", "exact", target.relations),
        ("combined_labels", "exact", target.classes),
        ("subject_labels", "exact", target.classes[subject]),
        ("object_labels", "exact", target.classes[object_]),
        ("combined_boxes", "box", target.boxes),
        ("subject_boxes", "box", target.boxes[subject]),
        ("object_boxes", "box", target.boxes[object_]),
        ("relation_boxes", "box", target.relation_boxes),
        ("boxes", "box", xyxy_to_cxcywh(corners) / size),
        ("relation_pairwise_giou", "giou", giou(first, second)),
    ]
    return [
        compare(case, f"{image}.{name}", quantity, ours, case.arrays[f"out.{image}.{name}"])
        for name, quantity, ours in results
    ]
