"""COCO's JSON with relations → the files that a data set consists of; `coco_form` describes the JSON."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speaq.data import DataError
from speaq.data.coco_form import Annotation, Document, Id, Image, Named, Relationship, read_document
from speaq.data.files import (
    ANNOTATION_NAMES,
    DICTIONARY_NAMES,
    IMAGE_DATA_NAME,
    IMAGE_FOLDER,
    ZERO_SHOT_NAMES,
    Problem,
    Problems,
    summary,
)
from speaq.data.images import read_size
from speaq.data.rules import TEST, TRAIN
from speaq.data.tables import names_a_file
from speaq.data.writing import image_columns, vocabulary, write_columns, write_json, zero_shot
from speaq.structures import FloatArray

BOX_SCALE = 1024
DEFAULT_TEST_SHARE = 0.2
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Converted:
    """What was written."""

    images: Mapping[str, int]  # by split
    boxes: int
    relations: int
    classes: int
    predicates: int
    crowds: int  # annotations left out

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        text = (
            f"{sum(self.images.values())} images ({splits}), {self.boxes} boxes of {self.classes} classes, "
            f"{self.relations} relations of {self.predicates} predicates"
        )
        return text + (f"; {self.crowds} crowds left out" if self.crowds else "")


@dataclass(frozen=True)
class _Scenes:
    """A document that is sound: everything by position instead of id."""

    images: Sequence[Image]
    sizes_hw: Sequence[tuple[int, int]]
    photos: Sequence[Path]
    boxes: Sequence[Sequence[Annotation]]  # of every image
    relations: Sequence[Sequence[tuple[int, int, int]]]  # of every image: rows of its boxes, 0-based predicate
    categories: Sequence[Named]
    predicates: Sequence[str]


def convert(
    annotations: Path,
    images: Path,
    output: Path,
    *,
    relations: Path | None = None,
    test_share: float | None = None,
    seed: int | None = None,
    copy: bool = False,
    progress: Progress = lambda done, total, text: None,
) -> Converted:
    """Writes a data set from COCO's JSON with relations; the annotations last, so that what is unfinished has none.

    Boxes are kept as float32 on the grid of 1024, so they lose nothing. Images of val come first among those of train,
    where readers look for them; images that are split here come in random order.

    Args:
        annotations: JSON file see `coco_form`.
        images: folder that `file_name` is relative to.
        output: new folder.
        relations: JSON file with `relationships` (and `predicates`), where `annotations` has none.
        test_share: share of the images that are for testing (default 0.2), where the file gives no `split`.
        seed: of that choice, default 0.
        copy: photos are copied; otherwise the data set links to them.

    Raises:
        DataError: anything that is wrong with the input, before anything is written; or a folder that cannot be.
    """
    if (output / ANNOTATION_NAMES[0]).exists() or (output.exists() and not output.is_dir()):
        raise DataError(f"{output}: is a data set already; give a new folder")
    document = read_document(annotations, relations)
    problems: Problems = []
    scenes = _resolve(document, _Names(annotations.name, (relations or annotations).name), images, problems, progress)
    if scenes is None or problems:
        raise DataError(summary(annotations, problems))
    splits = _splits(scenes, annotations, test_share, seed)
    try:
        counts = _write(scenes, splits, output, copy, progress)
    except OSError as error:
        raise DataError(f"{error.filename or output}: cannot be written ({error.strerror or error})") from error
    return Converted(
        images=counts,
        boxes=sum(map(len, scenes.boxes)),
        relations=sum(map(len, scenes.relations)),
        classes=len(scenes.categories),
        predicates=len(scenes.predicates),
        crowds=len(document.annotations) - sum(map(len, scenes.boxes)),
    )


@dataclass(frozen=True)
class _Names:
    """Of the files, for messages."""

    annotations: str
    relations: str


def _resolve(document: Document, files: _Names, folder: Path, problems: Problems, progress: Progress) -> _Scenes | None:
    """Ids become positions; None, with the reasons in `problems`, where they do not fit together."""
    file = files.annotations
    images = _rows(file, "images.id", [str(entry.id) for entry in document.images], problems)
    categories = _rows(file, "categories.id", [entry.id for entry in document.categories], problems)
    _rows(file, "categories.name", [entry.name for entry in document.categories], problems)
    _rows(file, "annotations.id", [entry.id for entry in document.annotations], problems)
    predicates = _Predicates.of(document, files.relations, problems)
    for row, entry in enumerate(document.images):
        if not names_a_file(str(entry.id)):
            problems.append(Problem(file, row, "images.id", "can name a file", repr(entry.id)[:80]))
    if problems:
        return None
    photos = [folder / entry.file_name for entry in document.images]
    sizes_hw = _sizes(document.images, file, photos, problems, progress)
    boxes, where = _boxes(document, file, images, set(categories), sizes_hw, problems)
    if problems:
        return None
    relations = _relations(document, files.relations, where, predicates, problems)
    return _Scenes(document.images, sizes_hw, photos, boxes, relations, document.categories, predicates.names)


def _rows(file: str, field: str, ids: Sequence[Id], problems: Problems) -> dict[Id, int]:
    rows: dict[Id, int] = {}
    for row, name in enumerate(ids):
        first = rows.setdefault(name, row)
        if first != row:
            problems.append(Problem(file, row, field, f"is unique (row {first} has it too)", repr(name)[:80]))
    return rows


@dataclass(frozen=True)
class _Predicates:
    names: list[str]
    by_name: Mapping[Id, int]
    by_id: Mapping[Id, int]

    @classmethod
    def of(cls, document: Document, file: str, problems: Problems) -> _Predicates:
        if document.predicates is None:
            names = sorted({entry.predicate for entry in document.relationships or () if entry.predicate is not None})
            return cls(names, {name: index for index, name in enumerate(names)}, {})
        names = [entry.name for entry in document.predicates]
        by_id = _rows(file, "predicates.id", [entry.id for entry in document.predicates], problems)
        return cls(names, _rows(file, "predicates.name", names, problems), by_id)

    def index(self, entry: Relationship) -> int | str:
        """0-based index, or the rule that the relationship breaks."""
        if (entry.predicate is None) == (entry.predicate_id is None):
            return "has one of predicate and predicate_id"
        if entry.predicate is not None:
            return self.by_name.get(entry.predicate, "predicate is one of predicates")
        assert entry.predicate_id is not None
        return self.by_id.get(entry.predicate_id, "predicate_id is one of predicates")


def _sizes(
    images: Sequence[Image], file: str, photos: Sequence[Path], problems: Problems, progress: Progress
) -> list[tuple[int, int]]:
    """Height and width of every upright photo, which the listed ones have to agree with."""
    sizes_hw: list[tuple[int, int]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, found in enumerate(pool.map(_size_or_reason, photos)):
            progress(row + 1, len(photos), "sizes of the photos")
            size_hw = (1, 1) if isinstance(found, str) else found
            sizes_hw.append(size_hw)
            listed = images[row].width, images[row].height
            if isinstance(found, str):
                problems.append(Problem(file, row, "images.file_name", "is a photo in --images", found))
            elif any(one not in (None, other) for one, other in zip(listed, reversed(size_hw), strict=True)):
                rule = f"is the size of the upright photo ({size_hw[1]} x {size_hw[0]})"
                problems.append(Problem(file, row, "images.width, images.height", rule, f"{listed[0]} x {listed[1]}"))
    return sizes_hw


def _size_or_reason(photo: Path) -> tuple[int, int] | str:
    try:
        return read_size(photo)
    except DataError as error:
        return str(error)


def _boxes(
    document: Document,
    file: str,
    images: Mapping[Id, int],
    categories: Set[Id],
    sizes_hw: Sequence[tuple[int, int]],
    problems: Problems,
) -> tuple[list[list[Annotation]], dict[Id, tuple[int, int]]]:
    """Annotations of every image, and (image, place among its annotations) of each, by id."""
    boxes: list[list[Annotation]] = [[] for _ in document.images]
    where: dict[Id, tuple[int, int]] = {}
    for row, entry in enumerate(document.annotations):
        image = images.get(str(entry.image_id))
        if image is None:
            problems.append(Problem(file, row, "annotations.image_id", "is an image", repr(entry.image_id)[:80]))
        if entry.category_id not in categories:
            value = repr(entry.category_id)[:80]
            problems.append(Problem(file, row, "annotations.category_id", "is a category", value))
        if image is None or entry.iscrowd:
            continue
        height, width = sizes_hw[image]
        x, y, w, h = entry.bbox
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            rule = f"lies in the photo ({width} x {height})"
            problems.append(Problem(file, row, "annotations.bbox", rule, str(list(entry.bbox))))
        where[entry.id] = image, len(boxes[image])
        boxes[image].append(entry)
    return boxes, where


def _relations(
    document: Document,
    file: str,
    where: Mapping[Id, tuple[int, int]],
    predicates: _Predicates,
    problems: Problems,
) -> list[list[tuple[int, int, int]]]:
    """(subject, object, predicate) of every image."""
    relations: list[list[tuple[int, int, int]]] = [[] for _ in document.images]
    for row, entry in enumerate(document.relationships or ()):
        for field, name in (("subject_id", entry.subject_id), ("object_id", entry.object_id)):
            if name not in where:
                rule = "is an annotation, and no crowd"
                problems.append(Problem(file, row, f"relationships.{field}", rule, repr(name)[:80]))
        index = predicates.index(entry)
        if isinstance(index, str):
            value = f"{entry.predicate!r}, {entry.predicate_id!r}"[:80]
            problems.append(Problem(file, row, "relationships", index, value))
            continue
        if entry.subject_id not in where or entry.object_id not in where:
            continue
        (image, subject), (other_image, other) = where[entry.subject_id], where[entry.object_id]
        named = str(document.images[image].id) if entry.image_id is None else str(entry.image_id)
        if image != other_image or named != str(document.images[image].id):
            value = f"image {named}: {entry.subject_id!r}, {entry.object_id!r}"
            problems.append(Problem(file, row, "relationships", "joins two annotations of its image", value))
            continue
        relations[image].append((subject, other, index))
    if not any(relations) and not problems:
        problems.append(Problem(file, None, "relationships", "hold at least one entry", "none"))
    return relations


def _splits(
    scenes: _Scenes, file: Path, test_share: float | None, seed: int | None
) -> dict[Literal["val", "train", "test"], list[int]]:
    """Rows of the images of every split, in the order in which they are written."""
    given = [image.split for image in scenes.images]
    if all(given):
        if test_share is not None or seed is not None:
            raise DataError(f"{file}: images.split says which are for testing; leave --test-share and --seed out")
        return {name: [row for row, split in enumerate(given) if split == name] for name in ("val", "train", "test")}
    if any(given):
        row = given.index(None)
        raise DataError(
            f"{file}: {Problem(file.name, row, 'images.split', 'is given for all images or none', 'missing')}"
        )
    share = DEFAULT_TEST_SHARE if test_share is None else test_share
    order = np.random.default_rng(seed or 0).permutation(len(given)).tolist()
    test: set[int] = set()
    for related in (True, False):  # so that images with relations are shared in this proportion too
        rows = [row for row in order if bool(scenes.relations[row]) == related]
        test.update(rows[: max(round(share * len(rows)), int(related))])
    return {
        "val": [],
        "train": [row for row in order if row not in test],
        "test": [row for row in order if row in test],
    }


def _write(
    scenes: _Scenes,
    splits: Mapping[Literal["val", "train", "test"], list[int]],
    output: Path,
    copy: bool,
    progress: Progress,
) -> dict[str, int]:
    """Photos, tables and, last, annotations; returns how many images there are of every split."""
    order = [row for rows in splits.values() for row in rows]
    (output / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    for done, row in enumerate(order, start=1):
        _place(scenes.photos[row], output / IMAGE_FOLDER / f"{scenes.images[row].id}.jpg", copy)
        progress(done, len(order), "photos")
    records = [
        {"image_id": scenes.images[row].id, "width": scenes.sizes_hw[row][1], "height": scenes.sizes_hw[row][0]}
        for row in order
    ]
    write_json(output / IMAGE_DATA_NAME, records)
    class_of = {entry.id: index for index, entry in enumerate(scenes.categories, start=1)}
    labels = [class_of[box.category_id] for row in order for box in scenes.boxes[row]]
    predicates = [relation[2] + 1 for row in order for relation in scenes.relations[row]]
    first_box = np.cumsum([0, *(len(scenes.boxes[row]) for row in order)]).tolist()
    pairs = [
        (first + subject, first + other)
        for row, first in zip(order, first_box, strict=False)
        for subject, other, _ in scenes.relations[row]
    ]
    split = [TEST if name == "test" else TRAIN for name, rows in splits.items() for _ in rows]
    num_relations = [len(scenes.relations[row]) for row in order]
    dictionaries = {
        **dict(vocabulary("object", "label", [entry.name for entry in scenes.categories], labels)),
        **dict(vocabulary("predicate", "predicate", scenes.predicates, predicates)),
    }
    write_json(output / DICTIONARY_NAMES[0], dictionaries)
    np.save(output / ZERO_SHOT_NAMES[0], zero_shot(split, num_relations, labels, pairs, predicates))
    columns: dict[str, NDArray[Any]] = {
        "boxes_1024": _encoded([scenes.boxes[row] for row in order], [scenes.sizes_hw[row] for row in order]),
        "labels": np.array(labels, dtype=np.int64).reshape(-1, 1),
        "predicates": np.array(predicates, dtype=np.int64).reshape(-1, 1),
        "relationships": np.array(pairs, dtype=np.int32).reshape(-1, 2),
        **image_columns(split, [len(scenes.boxes[row]) for row in order], num_relations),
    }
    write_columns(output / ANNOTATION_NAMES[0], columns)
    return {name: len(rows) for name, rows in splits.items() if rows}


def _place(photo: Path, target: Path, copy: bool) -> None:
    target.unlink(missing_ok=True)  # of a conversion that was interrupted
    if copy:
        shutil.copyfile(photo, target)
    else:
        target.symlink_to(photo.resolve())


def _encoded(boxes: Sequence[Sequence[Annotation]], sizes_hw: Sequence[tuple[int, int]]) -> FloatArray:
    """[N, 4] cx cy w h, the longest side of the photo scaled to `BOX_SCALE`."""
    pixels = np.array([box.bbox for some in boxes for box in some], dtype=np.float64).reshape(-1, 4)
    longest = np.repeat([max(size_hw) for size_hw in sizes_hw], [len(some) for some in boxes])
    centred = np.concatenate((pixels[:, :2] + pixels[:, 2:] / 2, pixels[:, 2:]), axis=1)
    return (centred * (BOX_SCALE / longest[:, None])).astype(np.float32)
