"""Files of stored features, whatever their images are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from speaq.data.features import Header, Picture, StoredSplit, write_pictures


def test_ids_of_images_may_have_any_letters(tmp_path: Path) -> None:
    ids = ["7", "café", "球 1"]
    header = Header(
        weights="",
        start="",
        data="",
        seen={},
        keys={},
        seed=0,
        views=1,
        precision="float32",
        stride=32,
        channels=2,
        entries={"val": len(ids)},
    )
    boxes = np.zeros((1, 4), np.float32)
    pictures = [
        Picture(name, (9, 9), (9, 9), boxes, torch.full((1, 1, 2), float(number))) for number, name in enumerate(ids)
    ]
    write_pictures(tmp_path / header.files("val")[0], pictures, "float32")
    stored = StoredSplit(tmp_path, header, "val")
    assert [float(stored.cells(stored.entry(name)).max()) for name in ids] == [0, 1, 2]
