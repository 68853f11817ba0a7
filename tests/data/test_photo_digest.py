"""Photos and zero-shot list are known again by their contents, and by their times alone where those are the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from speaq.data import photo_digest
from speaq.data.visual_genome import open_data
from tests.helpers.data_sets import write


def differences(directory: Path, before: dict[str, Any]) -> list[str]:
    return [change.split(" ")[0] for change in photo_digest.look_again(open_data(directory), before)[1]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", zero_shot=np.array([[1, 3, 2]]))


def test_what_was_not_noted_does_not_differ_and_what_is_the_same_does_not(data: Path) -> None:
    seen = photo_digest.look(open_data(data))
    assert photo_digest.look_again(open_data(data), seen) == (seen, [])
    assert photo_digest.look_again(open_data(data), {}) == (seen, [])
    assert photo_digest.look_again(open_data(data), {"photos": "odd"}) == (seen, [])
    assert photo_digest.noted({"directory": "x", **seen}) == seen


def test_a_copy_and_photos_that_no_image_has_make_no_difference(data: Path, tmp_path: Path) -> None:
    seen = photo_digest.look(open_data(data))
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / "VG_100K" / "11.jpg", (1, 1))
    (tmp_path / "copy" / "VG_100K" / "unknown.jpg").touch()
    (tmp_path / "copy" / "VG_100K_2").mkdir()
    (tmp_path / "copy" / "VG_100K" / "12.jpg").rename(tmp_path / "copy" / "VG_100K_2" / "12.jpg")
    now, changes = photo_digest.look_again(open_data(tmp_path / "copy"), seen)
    assert changes == []
    assert now["photos"]["times"] != seen["photos"]["times"]
    assert now["photos"]["contents"] == seen["photos"]["contents"]


def test_another_photo_is_noticed_also_one_of_the_same_size(data: Path) -> None:
    seen = photo_digest.look(open_data(data))
    photo = data / "VG_100K" / "13.jpg"
    content = bytearray(photo.read_bytes())
    Image.new("RGB", (48, 64), "red").save(photo)
    assert differences(data, seen) == ["photos"]
    content[-3] ^= 1
    photo.write_bytes(content)
    assert differences(data, seen) == ["photos"]


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: np.save(path, np.array([[1, 1, 1]]))])
def test_another_zero_shot_list_is_noticed(change: Any, data: Path) -> None:
    seen = photo_digest.look(open_data(data))
    change(data / "zeroshot_triplets.npy")
    assert differences(data, seen) == ["zero-shot"]


def test_of_many_photos_all_sizes_and_some_contents_are_looked_at(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_digest, "MOST_READ", 2)  # of six: the first and the last
    seen = photo_digest.look(open_data(data))
    photo = data / "VG_100K" / "13.jpg"
    content = bytearray(photo.read_bytes())
    photo.write_bytes(content + b"\0")
    assert differences(data, seen) == ["photos"]
    content[-3] ^= 1
    photo.write_bytes(content)
    assert differences(data, seen) == []
    last = data / "VG_100K" / "16.jpg"
    last.write_bytes(bytes([*last.read_bytes()[:-3], 1, *last.read_bytes()[-2:]]))
    assert differences(data, seen) == ["photos"]
