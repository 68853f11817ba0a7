"""Foreign annotations → the files that a data set consists of: `formats` reads, `scenes` resolves."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speaq.data import DataError
from speaq.data.coco.narrowing import narrowed
from speaq.data.coco.photos import Progress
from speaq.data.coco.scenes import Findings, Reading, Scenes, resolve
from speaq.data.files import (
    ANNOTATION_NAMES,
    DICTIONARY_NAMES,
    IMAGE_DATA_NAME,
    IMAGE_FOLDER,
    ZERO_SHOT_NAMES,
    Problem,
    summary,
)
from speaq.data.formats import Source
from speaq.data.formats.reading import Read
from speaq.data.formats.table import read
from speaq.data.rules import TEST, TRAIN
from speaq.data.writing import Rows, write_tables
from speaq.structures import FloatArray

Splits = dict[Literal["val", "train", "test"], list[int]]  # rows of the images of every split
BOX_SCALE = 1024
DEFAULT_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Converted:
    """What was written."""

    images: Mapping[str, int]  # by split
    boxes: int
    relations: int
    classes: int
    predicates: int
    crowds: int  # annotations left out
    notes: Sequence[str] = ()  # what else was left out or changed, one line each

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.images.items())
        text = (
            f"{sum(self.images.values())} images ({splits}), {self.boxes} boxes of {self.classes} classes, "
            f"{self.relations} relations of {self.predicates} predicates"
        )
        return text + (f"; {self.crowds} crowds left out" if self.crowds else "")


def convert(
    annotations: Path,
    images: Path,
    output: Path,
    *,
    source: Source = "coco",
    relations: Path | None = None,
    test_share: float | None = None,
    seed: int | None = None,
    copy: bool = False,
    reading: Reading = Reading(),
    strict: bool = False,
    progress: Progress = lambda done, total, text: None,
) -> Converted:
    """Writes a data set from foreign annotations; its own annotations last, so that what is unfinished has none.

    Boxes are kept as float32 on the grid of 1024, so they lose nothing. Images of val come first among those of train,
    where readers look for them; images that are split here come in random order.

    Args:
        annotations: file or folder, see the module of its format in `speaq.data.formats`.
        images: folder that `file_name` is relative to.
        output: new folder.
        source: the format.
        relations: JSON file with `relationships` (and `predicates`), where COCO's `annotations` have none.
        test_share: share of the images that are for testing (default 0.2), where the file gives no `split`.
        seed: of that choice, default 0.
        copy: photos are copied; otherwise the data set links to them.
        reading: what the file itself leaves open.
        strict: refuse what would be left out.

    Raises:
        DataError: anything that is wrong with the input, before anything is written; or a folder that cannot be.
    """
    _check_output(output)
    given = read(source, annotations, relations)
    found = Findings(annotations.name, given.relations or annotations.name, ids=source != "coco")
    scenes = _sound(given, images, reading, found, progress)
    if scenes is None or found.problems:
        raise DataError(summary(annotations, found.problems))
    if strict and found.first:
        raise DataError(summary(annotations, list(found.first.values())))
    counts = _write(scenes, _splits(scenes, annotations, test_share, seed), output, copy, progress)
    return _converted(scenes, counts, found)


def _check_output(output: Path) -> None:
    """Raises DataError where a file would be overwritten."""
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: is a file; give a new folder as --output")
    if any((output / name).exists() for name in ANNOTATION_NAMES):
        raise DataError(f"{output}: is a data set already; give a new folder")
    for name in (*DICTIONARY_NAMES, IMAGE_DATA_NAME, *ZERO_SHOT_NAMES):
        if (output / name).exists():
            raise DataError(f"{output / name}: is there already; give a new folder as --output, or remove it")


def _sound(given: Read, images: Path, reading: Reading, found: Findings, progress: Progress) -> Scenes | None:
    """The scenes of what was read, as the user wants them; None, with the reasons in `found`, where there are none."""
    found.lines += given.notes
    reading = reading if reading.form or not given.form else replace(reading, form=given.form)
    return resolve(narrowed(given.document, images, reading, found), images, reading, found, progress)


def _converted(scenes: Scenes, counts: Mapping[str, int], found: Findings) -> Converted:
    return Converted(
        images=counts,
        boxes=sum(map(len, scenes.boxes)),
        relations=sum(map(len, scenes.relations)),
        classes=len(scenes.classes),
        predicates=len(scenes.predicates),
        crowds=found.count["crowds"],
        notes=[*found.lines, *found.left_out()],
    )


def _splits(scenes: Scenes, file: Path, test_share: float | None, seed: int | None) -> Splits:
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


def _write(scenes: Scenes, splits: Splits, output: Path, copy: bool, progress: Progress) -> dict[str, int]:
    """Photos, tables and, last, annotations; returns how many images there are of every split. Raises DataError."""
    try:
        _write_files(scenes, splits, output, copy, progress)
    except OSError as error:
        raise DataError(f"{error.filename or output}: cannot be written ({error.strerror or error})") from error
    return {name: len(rows) for name, rows in splits.items() if rows}


def _write_files(scenes: Scenes, splits: Splits, output: Path, copy: bool, progress: Progress) -> None:
    order = [row for rows in splits.values() for row in rows]
    (output / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    photos = [photo.resolve() for photo in scenes.photos]  # before a link among them is replaced
    for done, row in enumerate(order, start=1):
        _place(photos[row], output / IMAGE_FOLDER / f"{scenes.images[row].id}.jpg", copy)
        progress(done, len(order), "photos")
    records = [
        {"image_id": scenes.images[row].id, "width": scenes.sizes_hw[row][1], "height": scenes.sizes_hw[row][0]}
        for row in order
    ]
    kept = np.array([box for row in order for box in scenes.boxes[row]], dtype=np.int64)
    first_box = np.cumsum([0, *(len(scenes.boxes[row]) for row in order)]).tolist()
    rows = Rows(
        split=[TEST if name == "test" else TRAIN for name, rows in splits.items() for _ in rows],
        num_boxes=[len(scenes.boxes[row]) for row in order],
        num_relations=[len(scenes.relations[row]) for row in order],
        labels=(scenes.labels[kept] + 1).tolist(),
        relationships=[
            (first + subject, first + other)
            for row, first in zip(order, first_box, strict=False)
            for subject, other, _ in scenes.relations[row]
        ],
        predicates=[relation[2] + 1 for row in order for relation in scenes.relations[row]],
    )
    longest = np.repeat([max(scenes.sizes_hw[row]) for row in order], rows.num_boxes)
    boxes = {"boxes_1024": _encoded(scenes.corners_xyxy[kept], longest)}
    write_tables(output, rows, records, (scenes.classes, scenes.predicates), boxes, {})


def _place(photo: Path, target: Path, copy: bool) -> None:
    """Puts a photo, no link, where the data set looks for it. Raises DataError where another one lies there."""
    if target.is_symlink():  # of a conversion that was interrupted
        target.unlink()
    if target.exists():  # the photo itself, whose folder is the data set's, or a copy of it
        if not filecmp.cmp(photo, target, shallow=False):
            raise DataError(f"{target}: is there, and no copy of {photo}; give a new folder as --output")
    elif copy:
        unfinished = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(photo, unfinished)
        unfinished.replace(target)
    else:
        target.symlink_to(photo)


def _encoded(corners_xyxy: NDArray[np.float64], longest: NDArray[np.int64]) -> FloatArray:
    """[N, 4] cx cy w h, the longest side of each box's photo [N] scaled to `BOX_SCALE`."""
    low, high = corners_xyxy[:, :2], corners_xyxy[:, 2:]
    centred = np.concatenate(((low + high) / 2, high - low), axis=1)
    return (centred * (BOX_SCALE / longest[:, None])).astype(np.float32)
