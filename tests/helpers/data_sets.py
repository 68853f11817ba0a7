"""Writes tiny data sets in the four-file layout, one array at a time under the test's control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

OBJECTS = ("cat", "dog", "hat")
PREDICATES = ("on", "near")


def arrays() -> dict[str, Any]:
    """Six images: rows 0-3 train, 4-5 test; row 1 has boxes but no relation, row 3 only relations without overlap."""
    return {
        "split": np.array([0, 0, 0, 0, 2, 2], np.int32),
        "img_to_first_box": np.array([0, 2, 3, 5, 7, 9], np.int32),
        "img_to_last_box": np.array([1, 2, 4, 6, 8, 10], np.int32),
        "img_to_first_rel": np.array([0, -1, 2, 4, 5, 6], np.int32),
        "img_to_last_rel": np.array([1, -1, 3, 4, 5, 6], np.int32),
        "boxes_1024": np.array([[300, 300, 201, 101], [330, 310, 200, 100]] * 5 + [[50, 50, 40, 40]], np.int32),
        "labels": np.array([1, 2, 3, 1, 2, 1, 2, 1, 2, 3, 3])[:, None],
        "relationships": np.array([[0, 1], [0, 1], [3, 4], [4, 3], [5, 6], [7, 8], [9, 10]], np.int32),
        "predicates": np.array([1, 2, 1, 1, 2, 1, 2])[:, None],
    }


def write(
    directory: Path,
    *,
    photos: bool = True,
    ids: list[Any] | None = None,
    sizes_hw: tuple[tuple[int, int], ...] = ((64, 48),) * 6,
    zero_shot: Any = None,
    **changes: Any,
) -> Path:
    """Writes `arrays()` with some of them replaced (None leaves one out); photos have the sizes listed for them."""
    content = arrays() | changes
    if "boxes_1024" not in changes:
        boxes = content["boxes_1024"].copy()
        boxes[5] = (100, 100, 40, 40)  # row 3: no overlap
        content["boxes_1024"] = boxes
    directory.mkdir(parents=True, exist_ok=True)
    with h5py.File(directory / "VG-SGG-with-attri.h5", "w") as file:
        for name, value in content.items():
            if value is not None:
                file[name] = value
    ids = list(range(11, 11 + len(sizes_hw))) if ids is None else ids
    entries = [{"image_id": i, "height": h, "width": w} for i, (h, w) in zip(ids, sizes_hw, strict=True)]
    (directory / "image_data.json").write_text(json.dumps(entries))
    dictionaries = {"label_to_idx": _numbered(OBJECTS), "predicate_to_idx": _numbered(PREDICATES)}
    (directory / "VG-SGG-dicts-with-attri.json").write_text(json.dumps(dictionaries))
    if zero_shot is not None:
        np.save(directory / "zeroshot_triplets.npy", zero_shot)
    if photos:
        (directory / "VG_100K").mkdir(exist_ok=True)
        for name, (height, width) in zip(ids, sizes_hw, strict=True):
            Image.new("RGB", (width, height), "olive").save(directory / "VG_100K" / f"{name}.jpg")
    return directory


def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    return {name: index for index, name in enumerate(names, start=1)}
