"""Data sets in the four-file layout of Visual Genome, opened and judged: the public names in one place.

`files` and `tables` read, `rules` judge, `records` hold the result. No photo is opened where that can be
helped. Source: method section 1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speaq.data import DataError
from speaq.data.files import (
    IMAGE_DATA_NAME,
    Annotations,
    Files,
    PhotoFolders,
    Problem,
    Problems,
    find_files,
    h5_key,
    locate,
    missing_photos,
    read_annotations,
    read_zero_shot,
    summary,
)
from speaq.data.images import read_image, read_size
from speaq.data.records import Split, SplitName, VisualGenome, corners, used_rows
from speaq.data.rules import check_annotations, check_form, check_train, owned_rows
from speaq.data.tables import ImageTable, read_images, read_vocabulary
from speaq.structures import IntArray


def load(
    directory: Path, problems: Problems, *, need_images: bool, need_train: bool, box_scale: int = 1024
) -> VisualGenome | None:
    """As `open_data`, with everything found wrong in `problems`; None where the files are unusable."""
    files = locate(directory, problems)
    if files is None:
        return None
    vocabulary = read_vocabulary(files.dictionaries, problems)
    data = read_annotations(files.annotations, problems, box_scale)
    images = read_images(files.image_data, None if data is None else len(data.split), problems)
    if vocabulary is None or data is None:
        return None
    num_classes, num_predicates = len(vocabulary.objects), len(vocabulary.predicates)
    found = check_annotations(files.annotations.name, data, num_classes, num_predicates, box_scale)
    found += check_train(files.annotations.name, data) if need_train else []
    problems += found
    zero_shot = None
    if files.zero_shot is not None:
        zero_shot = read_zero_shot(files.zero_shot, num_classes, num_predicates, problems)
    if images is None or any(problem.severity == "error" for problem in found):
        return None
    data = _compact(data)
    photos = PhotoFolders.of(files.directory) if need_images else None
    if photos is not None:
        missing_photos(photos, used_rows(data), images.ids.tolist(), problems)
    images = _fill_sizes(files, used_rows(data), images, photos, problems)
    return VisualGenome(
        files=files,
        vocabulary=vocabulary,
        annotations=data,
        images=images,
        zero_shot=zero_shot,
        box_scale=box_scale,
        photos=photos,
    )


def _compact(data: Annotations) -> Annotations:
    """The same in small types; every value has been checked to fit."""
    small = {name: getattr(data, name).astype(np.int32) for name in vars(data) if name != "boxes"}
    boxes = data.boxes.astype(np.int32) if data.boxes.dtype.kind == "i" else data.boxes
    return replace(data, **small, boxes=boxes)


def _fill_sizes(
    files: Files, rows: IntArray, images: ImageTable, photos: PhotoFolders | None, problems: Problems
) -> ImageTable:
    """Sizes that image_data.json lacks, from the photos."""
    sizes = images.sizes_hw.copy()
    for row in rows[sizes[rows, 0] == 0]:
        listed = Problem(files.image_data.name, int(row), "width, height", "is a size above 0", "the photo's is taken")
        try:
            if photos is None:
                raise DataError("no usable size")
            sizes[row] = read_size(photos.path(images.ids[row]))
            problems.append(replace(listed, severity="warning"))
        except DataError as error:
            problems.append(replace(listed, value=str(error)))
    return ImageTable(images.ids, sizes)


def check(directory: Path, *, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """All problems of a data set; decodes every photo that can be drawn.

    Args:
        progress: called with the number of photos done and in all.

    Returns:
        Errors and warnings; with errors in the annotations the photos are not judged. Empty for sound data.
    """
    problems: Problems = []
    data = load(directory, problems, need_images=True, need_train=True)
    if data is None or data.photos is None or not data.photos.exist:
        return problems
    rows = used_rows(data.annotations)
    missing = set(missing_photos(data.photos, rows, data.images.ids.tolist(), []).tolist())
    sizes_hw = data.images.sizes_hw.copy()  # as listed, where the photo cannot say it
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda row: [] if row in missing else _check_photo(data, row, sizes_hw), rows.tolist())
        for done, found in enumerate(results, start=1):
            problems += found
            if progress is not None:
                progress(done, len(rows))
    return problems + check_form(data.files.annotations.name, data.annotations, sizes_hw, data.box_scale, "error")


def _check_photo(data: VisualGenome, row: int, sizes_hw: NDArray[np.int32]) -> Problems:
    """What is wrong with a photo and its boxes; its true size goes into `sizes_hw`."""
    assert data.photos is not None, "opened with them"
    path = data.photos.path(data.images.ids[row])
    try:
        height, width, _ = read_image(path).shape
    except DataError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return [Problem(f"{path.parent.name}/{path.name}", row, "", "can be decoded", reason)]
    sizes_hw[row] = height, width
    problems: Problems = []
    listed_height, listed_width = data.images.sizes_hw[row].tolist()
    if (listed_height, listed_width) != (height, width):
        rule = f"is the size of the photo ({width} x {height}, which wins)"
        value = f"{listed_width} x {listed_height}"
        problems.append(Problem(IMAGE_DATA_NAME, row, "width, height", rule, value, "warning"))
    return problems + _check_boxes(data, row, (height, width))


def _check_boxes(data: VisualGenome, row: int, size_hw: tuple[int, int]) -> Problems:
    """Boxes that the photo does not show at all; the encoders of real data let them happen along the short side."""
    box_rows, _ = owned_rows(data.annotations.first_box, data.annotations.last_box, np.array([row]))
    boxes = data.annotations.boxes[box_rows]
    height, width = (side * data.box_scale / max(size_hw) for side in size_hw)
    outside = (corners(boxes)[:, :2] >= (width, height)).any(axis=1)
    field, rule = h5_key("boxes", data.box_scale), f"lies in the photo ({width:.0f} x {height:.0f} on this scale)"
    return [
        Problem(data.files.annotations.name, int(box_row), field, rule, str(box.tolist()), "warning")
        for box_row, box in zip(box_rows[outside], boxes[outside], strict=True)
    ]


__all__ = ["Files", "Problem", "Split", "SplitName", "VisualGenome", "check", "find_files", "open_data"]

logger = logging.getLogger(__name__)


def open_data(
    directory: Path,
    *,
    need_images: bool = True,
    need_train: bool = True,
    box_scale: Literal[512, 1024] = 1024,
    log: Callable[[str], None] = logger.warning,
) -> VisualGenome:
    """Opens a data set.

    Args:
        directory: holds the four files.
        need_images: whether photos must be there; without, sizes are those of image_data.json.
        need_train: whether something to train on must be there.
        box_scale: which of `boxes_1024` and `boxes_512` to use.
        log: receives warnings, one line each.

    Raises:
        DataError: the first problems, in one line.
    """
    problems: Problems = []
    data = load(directory, problems, need_images=need_images, need_train=need_train, box_scale=box_scale)
    if data is not None:
        problems += check_form(
            data.files.annotations.name, data.annotations, data.images.sizes_hw, box_scale, "warning"
        )
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors or data is None:
        raise DataError(summary(directory, errors))
    warnings = [problem for problem in problems if problem.severity == "warning"]
    if warnings:
        log(summary(directory, warnings))
    return data
