"""A data set in columns, and its splits.

Everything is held in columns, so that data-loader workers share it and 108,073 images open in seconds. No photo is
opened before it is needed. Letters: I images of a split, N boxes, M relations. Source: method section 1.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.files import Annotations, Files, PhotoFolders, read_attributes
from speaq.data.images import read_size
from speaq.data.rules import TEST, TRAIN, VAL, owned_rows
from speaq.data.tables import ImageTable
from speaq.structures import IntArray, SceneGraph, Vocabulary

if TYPE_CHECKING:  # with PyTorch, which takes seconds
    from speaq.data.features import StoredSplit
    from speaq.data.transforms import Picture


from speaq.config import EvaluationConfig

logger = logging.getLogger(__name__)
Array = NDArray[Any]
SplitName = Literal["train", "val", "test"]
SmallIntArray = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Split:
    """Scene graphs of one split, by row 0 … I-1; those of image i lie at offsets[i] … offsets[i+1]-1."""

    rows: IntArray  # [I] rows of the h5
    image_ids: NDArray[np.str_]  # [I]
    listed_hw: SmallIntArray  # [I, 2] sizes of image_data.json; the photo's own size wins, see `size_hw`
    boxes: Array  # [N, 4] cx cy w h in the file's number type, the image's longest side scaled to `box_scale`
    classes: SmallIntArray  # [N] 0-based
    box_offsets: IntArray  # [I + 1]
    relations: SmallIntArray  # [M, 3] (subject box, object box, predicate): box indices local to the image, 0-based
    relation_offsets: IntArray  # [I + 1]
    num_predicates: int
    box_scale: int
    folder: PhotoFolders | None  # of the photos; None where there are none
    features: StoredSplit | None = None  # from which to train and evaluate instead of the photos
    _true_hw: SmallIntArray = field(init=False, repr=False)  # [I, 2] 0 until the photo has been looked at

    # Decoded pictures by row, for each size in which data sets of this split keep them in memory.
    pictures: dict[tuple[int, ...], dict[int, Picture]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_true_hw", np.zeros_like(self.listed_hw))

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def landscape(self) -> NDArray[np.bool_]:
        """[I] whether the listed width exceeds the height."""
        return self.listed_hw[:, 1] > self.listed_hw[:, 0]

    @cached_property
    def relation_image(self) -> IntArray:
        """[M] image of every relation."""
        return np.repeat(np.arange(len(self)), np.diff(self.relation_offsets))

    def first(self, num_images: int) -> Split:
        """The first images of the split (all of them where it has fewer)."""
        return self.select(np.arange(min(num_images, len(self))))

    def select(self, images: IntArray) -> Split:
        """The images of these indices alone, in this order."""
        boxes, box_offsets = _pick(self.box_offsets, images)
        relations, relation_offsets = _pick(self.relation_offsets, images)
        return replace(
            self,
            rows=self.rows[images],
            image_ids=self.image_ids[images],
            listed_hw=self.listed_hw[images],
            boxes=self.boxes[boxes],
            classes=self.classes[boxes],
            box_offsets=box_offsets,
            relations=self.relations[relations],
            relation_offsets=relation_offsets,
        )

    def image_id(self, index: int) -> str:
        """The photo's number as text."""
        return str(self.image_ids[index])

    def image_path(self, index: int) -> Path:
        """Where the photo is; only for data opened with images."""
        assert self.folder is not None, "opened without images"
        return self.folder.path(self.image_ids[index])

    def size_hw(self, index: int) -> tuple[int, int]:
        """Height and width of the upright photo (read from its header once), or as listed where there are no photos.

        Raises:
            DataError: the photo is missing or damaged.
        """
        if self.folder is None:
            return self._pair(self.listed_hw, index)
        if not self._true_hw[index, 0]:
            self._learn_size(index, read_size(self.image_path(index)))
        return self._pair(self._true_hw, index)

    def scene_graph(self, index: int, size_hw: tuple[int, int] | None = None) -> SceneGraph:
        """Ground truth of an image in pixels of the photo, every row of it, duplicates included.

        Args:
            size_hw: size of the photo where it has been read already; saves `size_hw` a look at its header.
        """
        if size_hw is None:
            size_hw = self.size_hw(index)
        elif not self._true_hw[index, 0]:
            self._learn_size(index, size_hw)
        some = slice(self.box_offsets[index], self.box_offsets[index + 1])
        relations = self.relations[self.relation_offsets[index] : self.relation_offsets[index + 1]]
        pixels = corners(self.boxes[some]).astype(np.float64) / self.box_scale * max(size_hw)
        return SceneGraph(
            image_id=self.image_id(index),
            size_hw=size_hw,
            boxes_xyxy=pixels.astype(np.float32),
            classes=self.classes[some].astype(np.int64),
            relations=relations.astype(np.int64),
        )

    def _learn_size(self, index: int, size_hw: tuple[int, int]) -> None:
        self._true_hw[index] = size_hw
        listed = self._pair(self.listed_hw, index)
        if listed != size_hw:
            logger.warning(
                "image %s: image_data.json lists %d x %d, the photo is %d x %d (width x height) and wins",
                self.image_id(index),
                *reversed(listed),
                *reversed(size_hw),
            )

    @staticmethod
    def _pair(sizes: SmallIntArray, index: int) -> tuple[int, int]:
        return int(sizes[index, 0]), int(sizes[index, 1])


def _pick(offsets: IntArray, images: IntArray) -> tuple[IntArray, IntArray]:
    """Rows that belong to `images`, one image after the other, and their offsets."""
    counts = np.diff(offsets)[images]
    ends = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(ends[-1]) + np.repeat(offsets[images] - ends[:-1], counts), ends


def corners(boxes: Array) -> Array:
    """[n, 4] cx cy w h → x1 y1 x2 y2 in the same number type.

    In an integer type x1 and y1 are truncated toward zero *before* x2 and y2 are formed, as the reference does
    (method section 1, golden `g9_default_*`).
    """
    result = np.empty_like(boxes)
    result[:, :2] = boxes[:, :2] - boxes[:, 2:] / 2
    result[:, 2:] = result[:, :2] + boxes[:, 2:]
    return result


def overlap(a_xyxy: Array, b_xyxy: Array) -> NDArray[np.bool_]:
    """[n, 4] twice → [n], whether the boxes share an area above 0 (touching ones do not)."""
    size = np.minimum(a_xyxy[:, 2:], b_xyxy[:, 2:]) - np.maximum(a_xyxy[:, :2], b_xyxy[:, :2])
    return np.asarray((size > 0).all(axis=1))


logger = logging.getLogger(__name__)

SEED = 0  # one choice for all runs, whatever their own seed: trials are compared on the same images


def looked_at(val: Split, config: EvaluationConfig) -> Split:
    """`val`, or the images of it that `max_val_images` and `val_subset` leave."""
    if config.max_val_images is None or config.max_val_images >= len(val):
        return val
    if config.val_subset == "first":
        return val.first(config.max_val_images)
    return val.select(stratified(val, config.max_val_images))


def stratified(split: Split, num_images: int) -> IntArray:
    """[num_images] rising indices of images with the predicates in their shares, each at least once.

    A predicate without a relation counts 0 in mean recall, whatever the model does; a plain small subset misses the
    rare ones. Images are taken at even distances from a list ordered by their rarest predicate, at random within one
    (systematic sampling: Cochran, "Sampling Techniques", chapter 8), so that no kind of image is preferred; predicates
    that are still missing get one image each. Where `num_images` is below their number some may be left out: a warning
    says how many.
    """
    shows = np.zeros((len(split), split.num_predicates), dtype=bool)
    shows[split.relation_image, split.relations[:, 2]] = True
    images = shows.sum(0)
    rarest_first = np.argsort(images, kind="stable")[(images == 0).sum() :]
    random = np.random.default_rng(SEED)
    shuffled = random.permutation(len(split))
    kinds = np.append(shows[:, rarest_first], np.ones((len(split), 1), dtype=bool), axis=1).argmax(1)
    ordered = shuffled[np.argsort(kinds[shuffled], kind="stable")]
    for even in range(num_images, -1, -1):
        chosen = np.zeros(len(split), dtype=bool)
        chosen[ordered[((np.arange(even) + 0.5) * len(split) / max(even, 1)).astype(int)]] = True
        for predicate in rarest_first:
            if not (chosen & shows[:, predicate]).any():
                chosen[shuffled[shows[shuffled, predicate].argmax()]] = True
        if chosen.sum() <= num_images:
            break
    surplus = int(chosen.sum()) - num_images  # above 0 where there are fewer images than predicates
    chosen[random.choice(np.flatnonzero(chosen), size=max(surplus, 0), replace=False)] = False
    chosen[random.choice(np.flatnonzero(~chosen), size=max(-surplus, 0), replace=False)] = True
    unseen = len(rarest_first) - int(shows[chosen].any(0).sum())
    if unseen:
        logger.warning(
            "evaluation.max_val_images %d: %d of the %d predicates of val are not among them and count 0",
            num_images,
            unseen,
            len(rarest_first),
        )
    return np.flatnonzero(chosen)


@dataclass(frozen=True, eq=False, repr=False)
class VisualGenome:
    """A data set, opened and found sound."""

    files: Files
    vocabulary: Vocabulary
    annotations: Annotations
    images: ImageTable
    zero_shot: IntArray | None  # [Z, 3] 0-based (subject class, object class, predicate)
    box_scale: int
    photos: PhotoFolders | None  # None: opened without

    def __repr__(self) -> str:
        names = f"{self.num_classes} classes, {self.num_predicates} predicates"
        return f"VisualGenome({self.directory}: {len(used_rows(self.annotations))} images with boxes, {names})"

    @property
    def directory(self) -> Path:
        """The folder of the data set."""
        return self.files.directory

    @property
    def num_classes(self) -> int:
        """C, object classes."""
        return len(self.vocabulary.objects)

    @property
    def num_predicates(self) -> int:
        """P, predicates."""
        return len(self.vocabulary.predicates)

    @cached_property
    def digest(self) -> str:
        """sha256 over the annotation files."""
        return self.files.digest()

    def split(self, name: SplitName, config: DataConfig) -> Split:
        """Images of a split, in the order of the file.

        Val is the first `num_val` of the train rows that have boxes (and relations, unless they are kept without), or
        with `val: split` the rows that the h5 calls val; only train is filtered by overlap.

        Raises:
            DataError: val takes all train images, or the overlap filter leaves none.
        """
        data = self.annotations
        usable = used_rows(data)
        if not config.keep_images_without_relations:
            usable = usable[data.first_relation[usable] >= 0]
        wanted = TEST if name == "test" else VAL if name == "val" and config.val == "split" else TRAIN
        rows = usable[data.split[usable] == wanted]
        if wanted == TRAIN and name == "val":
            rows = rows[: config.num_val]
        if name == "train":
            return self._train(rows, config)
        return self._gather(rows, None)

    def _train(self, candidates: IntArray, config: DataConfig) -> Split:
        rows, keep = candidates[config.num_val :], None
        if config.filter_non_overlap:
            relations, owner = owned_rows(self.annotations.first_relation, self.annotations.last_relation, rows)
            boxes = corners(self.annotations.boxes)
            pairs = self.annotations.pairs[relations]
            keep = np.zeros(len(self.annotations.pairs), dtype=np.bool_)
            keep[relations] = overlap(boxes[pairs[:, 0]], boxes[pairs[:, 1]])
            rows = rows[np.unique(owner[keep[relations]])]
        if not len(rows):
            taken = f"{config.num_val} of {len(candidates)} train images are val"
            filtered = ", in the rest no related boxes overlap" if config.filter_non_overlap else ""
            reason = f"leaves no image to train on ({taken}{filtered}); set it lower"
            raise DataError(f"{self.directory}: data.num_val {reason}")
        return self._gather(rows, keep)

    def _gather(self, rows: IntArray, keep: NDArray[np.bool_] | None) -> Split:
        """Columns of the given h5 rows; `keep` [all relations] selects relations."""
        data = self.annotations
        boxes, box_owner = owned_rows(data.first_box, data.last_box, rows)
        relations, owner = owned_rows(data.first_relation, data.last_relation, rows)
        if keep is not None:
            relations, owner = relations[keep[relations]], owner[keep[relations]]
        local = data.pairs[relations] - data.first_box[rows][owner, None]
        return Split(
            rows=rows,
            image_ids=self.images.ids[rows],
            listed_hw=self.images.sizes_hw[rows],
            boxes=data.boxes[boxes],
            classes=data.labels[boxes] - 1,
            box_offsets=_offsets(box_owner, len(rows)),
            relations=np.concatenate((local, data.predicates[relations, None] - 1), axis=1),
            relation_offsets=_offsets(owner, len(rows)),
            num_predicates=self.num_predicates,
            box_scale=self.box_scale,
            folder=self.photos,
        )

    def attributes(self, split: Split) -> Array | None:
        """[N, 10] attribute ids of the split's boxes as stored (1-based, padded with 0), read anew; None without."""
        stored = read_attributes(self.files.annotations)
        if stored is None or len(stored) != len(self.annotations.boxes):
            return None
        return np.asarray(stored[owned_rows(self.annotations.first_box, self.annotations.last_box, split.rows)[0]])


def _offsets(owner: IntArray, num_images: int) -> IntArray:
    return np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=num_images)))).astype(np.int64)


def used_rows(data: Annotations) -> IntArray:
    """Rows of the h5 that a split can draw: train, val or test, with at least one box."""
    return np.flatnonzero(np.isin(data.split, (TRAIN, VAL, TEST)) & (data.first_box >= 0))
