"""Broken data sets: each is refused in one line, or loads, as its index says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.images import read_image
from speaq.data.visual_genome import Split, check, open_data
from tests.helpers.command import command
from tests.helpers.shared import SHARED, needs
from tests.helpers.tiny import assignments

BAD = SHARED / "data" / "bad"
INDEX = BAD / "index.json"
ENTRIES: list[dict[str, Any]] = json.loads(INDEX.read_text()) if INDEX.exists() else []
ALL = DataConfig(num_val=0, keep_images_without_relations=True)
# Files that a message about each kind of entry has to name.
FILE_OF = {
    "h5": "VG-SGG-with-attri.h5",
    "dicts": "VG-SGG-dicts-with-attri.json",
    "image-data": "image_data.json",
    "jpg": "VG_100K/599.jpg",
}

pytestmark = needs("data", "bad", "index.json")


def entries(*expected: str) -> pytest.MarkDecorator:
    chosen = [entry["name"] for entry in ENTRIES if entry["expect"].startswith(expected)]
    return pytest.mark.parametrize("name", chosen or ["absent"])


def expected_file(name: str) -> str:
    return next((file for kind, file in FILE_OF.items() if name.startswith(kind)), FILE_OF["h5"])


def read_all(directory: Path) -> list[Split]:
    """Opens a data set and decodes all its photos."""
    data = open_data(directory)
    splits = [data.split(name, ALL) for name in ("train", "test")]
    for split in splits:
        for i in range(len(split)):
            height, width, _ = read_image(split.image_path(i)).shape
            assert split.scene_graph(i).size_hw == (height, width)
    return splits


def test_every_outcome_of_the_index_is_covered() -> None:
    known = ("error", "loads")
    assert all(entry["expect"].startswith(known) for entry in ENTRIES)
    assert len(ENTRIES) >= 60


@entries("error")
def test_errors_are_found_and_refused_in_one_line(name: str) -> None:
    problems = [problem for problem in check(BAD / name) if problem.severity == "error"]
    assert problems
    assert expected_file(name) in problems[0].file
    assert problems[0].rule
    with pytest.raises(DataError) as caught:
        read_all(BAD / name)
    assert "\n" not in str(caught.value)
    assert expected_file(name) in str(caught.value)


@entries("loads")
def test_sound_data_load_unchanged(name: str) -> None:
    assert not [problem for problem in check(BAD / name) if problem.severity == "error"]
    splits = read_all(BAD / name)
    if name == "split-values":
        assert [split.rows.tolist() for split in splits] == [[0, 1], [4]]
        return
    for split, sound in zip(splits, read_all(BAD / "ok"), strict=True):
        assert split.image_ids.tolist() == sound.image_ids.tolist()
        np.testing.assert_array_equal(split.classes, sound.classes)
        if name == "relation-self-and-duplicate":
            continue
        np.testing.assert_array_equal(split.relations, sound.relations)
        for i in range(len(split)):
            ours, theirs = split.scene_graph(i), sound.scene_graph(i)
            assert ours.size_hw == theirs.size_hw
            np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, atol=0.1)  # fractions where boxes are float


def train_on(name: str, tmp_path: Path) -> Result:
    """`speaq train` for two steps."""
    config = tmp_path / "config.yaml"
    config.write_text("", encoding="utf-8")
    sets = assignments(data__num_val=1, training__max_steps=2, training__batch_size=2, training__decay_steps=[1])
    return command("train", "--config", config, "--data", BAD / name, "--output", tmp_path / "run", *sets)


@entries("error")
def test_training_refuses_errors_in_one_line(name: str, tmp_path: Path) -> None:
    done = train_on(name, tmp_path)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
    assert line.startswith("speaq: ")
    assert expected_file(name) in line


@entries("loads")
def test_training_takes_what_is_sound(name: str, tmp_path: Path) -> None:
    done = train_on(name, tmp_path)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == 2


@pytest.mark.parametrize(
    ("name", "left"),
    [("jpg-cmyk", 0), ("jpg-is-gif", 0), ("jpg-exif-rotated", 0), ("jpg-is-rgba-png", 32)],  # 32: beside the hole in it
)
def test_odd_photos_show_the_same_picture(name: str, left: int) -> None:
    ours, theirs = (read_image(BAD / folder / "VG_100K" / "599.jpg").astype(float) for folder in (name, "ok"))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs)[:, left:].mean() < 8  # one more lossy encoding


def test_16_bits_keep_the_brightness() -> None:
    ours, theirs = (read_image(BAD / folder / "VG_100K" / "599.jpg") for folder in ("jpg-is-png16", "ok"))
    assert abs(ours.mean() - theirs.mean()) < 5


@pytest.mark.parametrize("name", ["image-data-wrong-size", "image-data-zero-size"])
def test_wrong_sizes_are_warned_of(name: str) -> None:
    problems = check(BAD / name)
    assert {(problem.file, problem.severity) for problem in problems} == {("image_data.json", "warning")}


def test_a_problem_names_file_row_field_rule_and_value() -> None:
    (problem,) = check(BAD / "label-zero")
    assert str(problem) == "VG-SGG-with-attri.h5 · row 0 · labels · is 1 to 80, an id of the dictionary · 0"
