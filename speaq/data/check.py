"""Looks at everything in a data set, photos included, and lists what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speaq.data import DataError
from speaq.data.files import IMAGE_DATA_NAME, Problem, Problems, h5_key
from speaq.data.images import read_image
from speaq.data.loading import load
from speaq.data.photo_folders import missing_photos
from speaq.data.records import VisualGenome, used_rows
from speaq.data.rules import check_form, owned_rows
from speaq.data.split import corners


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
