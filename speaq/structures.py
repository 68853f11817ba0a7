"""The data that flows through the library; shapes and layouts are documented once, here.

Letters: B images, N boxes of an image, M relations of an image, Q subject queries, R relation queries,
C object classes, P predicates, L decoder layers, S matched pairs, D detected boxes, T predicted triplets.
Box layouts: `xyxy` in pixels, or `cxcywh` in [0, 1] of the un-padded image. Everything is 0-based;
no-object and no-relation are the *last* logit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # who reads annotations alone need not wait for PyTorch
    import torch
    from torch import Tensor

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Class names in the order of their indices."""

    objects: tuple[str, ...]  # C
    predicates: tuple[str, ...]  # P


@dataclass(frozen=True)
class SceneGraph:
    """Ground truth of one image, in pixels of the original image."""

    image_id: str
    size_hw: tuple[int, int]
    boxes_xyxy: FloatArray  # [N, 4] pixels
    classes: IntArray  # [N]
    relations: IntArray  # [M, 3] rows (subject box, object box, predicate), duplicates kept


@dataclass(frozen=True)
class Resize:
    """A picture is still to be resized."""

    size_hw: tuple[int, int]  # pixels, afterwards


@dataclass(frozen=True)
class Window:
    """A window is still to be cut out of a picture."""

    top: int
    left: int
    size_hw: tuple[int, int]  # pixels, of the window


Pending = tuple[Resize | Window, ...]  # what the device does to a picture, in this order


@dataclass(frozen=True)
class Sample:
    """One image as the network sees it, with its ground truth in pixels of *that* image."""

    index: int  # row of the split
    image: Tensor  # [h, w, 3] uint8 RGB, before `pending`
    boxes_xyxy: Tensor  # [N, 4] float32 pixels
    classes: Tensor  # [N] int64
    relations: Tensor  # [M, 3] int64
    original_hw: tuple[int, int]  # true height and width of the file's picture
    pending: Pending = ()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width as the network sees it."""
        return self.pending[-1].size_hw if self.pending else (self.image.shape[0], self.image.shape[1])


@dataclass(frozen=True)
class Target:
    """Ground truth of one image in normalised coordinates (method section 3)."""

    classes: Tensor  # [N] int64
    boxes: Tensor  # [N, 4] float32 cxcywh in [0, 1]
    relations: Tensor  # [M, 3] int64 rows (subject box, object box, predicate)
    relation_boxes: Tensor  # [M, 4] float32 cxcywh in [0, 1], spanned by the two centres


@dataclass(frozen=True)
class Targets:
    """Ground truth of the images of a batch in columns, one image after the other; fields as in `Target`.

    A relation's boxes are counted from the first one of its image.
    """

    classes: Tensor  # [sum of N]
    boxes: Tensor  # [sum of N, 4]
    relations: Tensor  # [sum of M, 3]
    relation_boxes: Tensor  # [sum of M, 4]
    num_boxes: tuple[int, ...]  # B, N of every image
    num_relations: tuple[int, ...]  # B, M of every image

    def mapped(self, function: Callable[[Any], Any]) -> Targets:
        """The same with what `function` makes of each column."""
        names = ("classes", "boxes", "relations", "relation_boxes")
        return replace(self, **{name: function(getattr(self, name)) for name in names})

    def images(self) -> list[Target]:
        """B targets, each of one image: views of the columns, to look at. Nothing is trained with them."""
        of_boxes = (split_by_counts(column, self.num_boxes) for column in (self.classes, self.boxes))
        of_relations = (split_by_counts(c, self.num_relations) for c in (self.relations, self.relation_boxes))
        return [Target(*columns) for columns in zip(*of_boxes, *of_relations, strict=True)]


@dataclass(frozen=True)
class Batch:
    """Images padded to one size at the lower right, and their targets."""

    images: Tensor  # [B, 3, H, W] uint8 RGB; padding is 0. With `encoded` [B, h, w, d], `Network.cells` of them
    sizes_hw: Tensor  # [B, 2] int64 un-padded height and width
    targets: Targets
    indices: list[int]  # B rows of the split
    original_hw: list[tuple[int, int]]  # B true heights and widths of the files' pictures
    encoded: bool = False

    def mapped(self, function: Callable[[Any], Any]) -> Batch:
        """The same with what `function` makes of each tensor."""
        targets = self.targets.mapped(function)
        return replace(self, images=function(self.images), sizes_hw=function(self.sizes_hw), targets=targets)

    def to(self, device: torch.device) -> Batch:
        """The same on a device; a copy from pinned memory is not waited for."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same with the images in pinned memory; the other tensors are small."""
        return replace(self, images=self.images.pin_memory())


@dataclass(frozen=True)
class LayerOutputs:
    """Raw outputs of all decoder layers; layer L-1 is the last. Boxes are cxcywh in [0, 1]."""

    subject_logits: Tensor  # [L, B, R, C+1]
    object_logits: Tensor  # [L, B, R, C+1]
    predicate_logits: Tensor  # [L, B, R, P+1]
    subject_boxes: Tensor  # [L, B, R, 4]
    object_boxes: Tensor  # [L, B, R, 4]
    relation_boxes: Tensor  # [L, B, R, 4]

    def float(self) -> LayerOutputs:
        """The same in float32, for costs and losses under mixed precision."""
        return LayerOutputs(**{f.name: getattr(self, f.name).float() for f in fields(self)})


@dataclass(frozen=True)
class DetectorOutputs:
    """Raw outputs of all decoder layers of the pre-training detector; boxes are cxcywh in [0, 1]."""

    logits: Tensor  # [L, B, Q, C+1]
    boxes: Tensor  # [L, B, Q, 4]

    def float(self) -> DetectorOutputs:
        """The same in float32, for costs and losses under mixed precision."""
        return DetectorOutputs(self.logits.float(), self.boxes.float())


@dataclass(frozen=True)
class Assignment:
    """Which query learns which relation, for all layers and images at once.

    Rows are sorted by (layer, image, query); a (layer, image, query) occurs at most once; a relation occurs at most
    as often as it is repeated. `relation` indexes the image's un-repeated relations.
    """

    layer: Tensor  # [S] int64
    image: Tensor  # [S] int64
    query: Tensor  # [S] int64
    relation: Tensor  # [S] int64
    repeats: list[Tensor]  # B tensors [L, M_b] int64, k of every relation and layer


@dataclass(frozen=True)
class ScenePrediction:
    """Ranked triplets of one image, best first; `pairs` index the kept boxes."""

    boxes_xyxy: FloatArray  # [D, 4] pixels of the original image
    classes: IntArray  # [D]
    scores: FloatArray  # [D] probability of the box's class
    pairs: IntArray  # [T, 2] (subject box, object box)
    predicates: IntArray  # [T]
    triplet_scores: FloatArray  # [T] descending; the query's own p_sub p_obj p_pred
    predicate_scores: FloatArray  # [T, P+1] softmax of the query, no-relation last
    query_index: IntArray  # [T] relation query that each row came from


def split_by_counts(values: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Splits the first dimension of `values` into consecutive pieces of the given lengths."""
    return list(values.split(list(counts)))  # type: ignore[no-untyped-call]
