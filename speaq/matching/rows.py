"""Outputs and ground truth laid out so that all layers and images are matched at once.

Letters: L decoder layers, B images, R queries, C classes of an element, N boxes and M relations of an image,
E elements of a query (3: subject, object, relation; 1: the box of a detector),
T ground-truth rows (relations or objects) of all images, one image after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from speaq.structures import LayerOutputs, Targets


@dataclass(frozen=True)
class Queries:
    """What every query of every layer predicts; the last class is background."""

    names: tuple[tuple[str, str], ...]  # E of (logits, boxes), for messages
    logits: tuple[Tensor, ...]  # E of [L, B, R, C+1] float32, C differs by element
    log_probabilities: tuple[Tensor, ...]  # E of [L, B, R, C+1] float32, without gradient
    boxes: tuple[Tensor, ...]  # E of [L, B, R, 4] float32 cxcywh in [0, 1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """L, B, R."""
        num_layers, num_images, num_queries, _ = self.boxes[0].shape
        return num_layers, num_images, num_queries


@dataclass(frozen=True)
class Truth:
    """Ground-truth rows of a batch."""

    classes: Tensor  # [E, T] int64
    boxes: Tensor  # [E, T, 4] float32 cxcywh in [0, 1]
    image: Tensor  # [T] int64, ascending
    counts: tuple[int, ...]  # B rows of every image, sums to T

    def rows(self, first: int, end: int) -> Truth:
        """Some of the rows, of the same batch."""
        part = slice(first, end)
        counts = np.bincount(self.image_on_host[part], minlength=len(self.counts)).tolist()
        return Truth(self.classes[:, part], self.boxes[:, part], self.image[part], tuple(counts))

    @property
    def image_on_host(self) -> NDArray[np.int64]:
        """[T] like `image`, known without asking the device."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def relation_queries(outputs: LayerOutputs) -> Queries:
    """Subject, object and relation of every relation query, in float32."""
    return _queries(
        (
            ("subject_logits", "subject_boxes"),
            ("object_logits", "object_boxes"),
            ("predicate_logits", "relation_boxes"),
        ),
        (outputs.subject_logits, outputs.object_logits, outputs.predicate_logits),
        (outputs.subject_boxes, outputs.object_boxes, outputs.relation_boxes),
    )


def object_queries(logits: Tensor, boxes: Tensor) -> Queries:
    """A detector's [L, B, Q, C+1] logits and [L, B, Q, 4] boxes, in float32."""
    return _queries((("logits", "boxes"),), (logits,), (boxes,))


def _queries(names: tuple[tuple[str, str], ...], logits: Sequence[Tensor], boxes: Sequence[Tensor]) -> Queries:
    logits = tuple(x.float() for x in logits)
    with torch.no_grad():
        log_probabilities = tuple(F.log_softmax(x, dim=-1) for x in logits)
    return Queries(names, logits, log_probabilities, tuple(x.float() for x in boxes))


def relation_truth(targets: Targets) -> Truth:
    """One row for every relation: its subject, object and predicate."""
    counts = targets.num_relations
    first_box = np.cumsum([0, *targets.num_boxes[:-1]])
    owner, offset = to_device(
        np.stack((np.repeat(np.arange(len(counts)), counts), np.repeat(first_box, counts))), targets.relations.device
    )
    pairs = (targets.relations[:, :2] + offset[:, None]).T  # [2, T] boxes of the batch
    classes = torch.cat((targets.classes[pairs], targets.relations[:, 2][None]))
    return Truth(classes, torch.cat((targets.boxes[pairs], targets.relation_boxes[None])), owner, counts)


def object_truth(targets: Targets) -> Truth:
    """One row for every box."""
    counts = targets.num_boxes
    owner = to_device(np.repeat(np.arange(len(counts)), counts), targets.classes.device)
    return Truth(targets.classes[None], targets.boxes[None], owner, counts)


def to_device(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """Copies host numbers to the device without waiting for it (a plain copy would)."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
