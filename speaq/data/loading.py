"""Opens a data set and judges it, without opening a photo where that can be helped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from speaq.data import DataError
from speaq.data.files import Annotations, Files, Problem, Problems, locate, read_annotations, read_zero_shot
from speaq.data.images import read_size
from speaq.data.photo_folders import PhotoFolders, missing_photos
from speaq.data.records import VisualGenome, used_rows
from speaq.data.rules import check_annotations, check_train
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
