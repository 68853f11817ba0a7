"""COCO-style JSON with relations becomes a data set that holds the same scenes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from speaq.config import DataConfig
from speaq.data.visual_genome import open_data
from tests.helpers.coco_sets import ALL, arguments, changed, coco_of, graphs, small
from tests.helpers.command import command, refusal


def test_a_data_set_survives_the_way_to_coco_and_back(toy: Path, tmp_path: Path) -> None:
    before = open_data(toy)
    (tmp_path / "coco.json").write_text(json.dumps(coco_of(before)))
    done = command("data", "convert", tmp_path / "coco.json", tmp_path / "data", "--images", toy / "VG_100K")
    assert done.exit_code == 0, (done.output, done.exception)
    after = open_data(tmp_path / "data")
    assert after.vocabulary == before.vocabulary
    wanted, got = graphs(before), graphs(after)
    assert wanted.keys() == got.keys()
    for name, graph in wanted.items():
        assert got[name].size_hw == graph.size_hw
        np.testing.assert_allclose(got[name].boxes_xyxy, graph.boxes_xyxy, atol=1e-3)
        np.testing.assert_array_equal(got[name].classes, graph.classes)
        np.testing.assert_array_equal(got[name].relations, graph.relations)
    test = {vg.split("test", ALL).image_id(0) for vg in (before, after)}
    assert len(test) == 1
    np.testing.assert_array_equal(after.zero_shot, before.zero_shot)
    assert (tmp_path / "data" / "VG_100K" / f"{test.pop()}.jpg").is_symlink()
    assert "is a data set already" in refusal(
        "data", "convert", tmp_path / "coco.json", tmp_path / "data", "--images", toy / "VG_100K"
    )


def test_images_without_a_split_are_shared_by_seed(photos: Path, tmp_path: Path) -> None:
    content = small()
    relations = {"relationships": content.pop("relationships")}
    (tmp_path / "relations.json").write_text(json.dumps(relations))
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, ("1", "1", "2"), strict=True):
        folder.mkdir()
        given = arguments(content, photos, folder)
        sources = ("--relations", tmp_path / "relations.json", "--test-share", "0.5", "--seed", seed, "--copy")
        done = command(*given, *sources)
        assert done.exit_code == 0, (done.output, done.exception)
        assert "4 images (2 train, 2 test), 8 boxes of 2 classes, 4 relations of 2 predicates; 1 crowds" in done.output
    first, again, other = (open_data(folder / "data") for folder in folders)
    assert first.vocabulary.predicates == ("below", "on")
    assert first.digest == again.digest
    assert first.digest != other.digest
    assert not (folders[0] / "data" / "VG_100K" / "1.jpg").is_symlink()
    np.testing.assert_allclose(graphs(first)["1"].boxes_xyxy[0], [10, 5, 30.5, 15], atol=1e-4)


def test_val_images_come_where_val_is_looked_for(photos: Path, tmp_path: Path) -> None:
    content = small()
    for image, split in zip(content["images"], ("train", "test", "val", "train"), strict=True):
        image["split"] = split
    done = command(*arguments(content, photos, tmp_path))
    assert done.exit_code == 0, (done.output, done.exception)
    assert "--set data.num_val=1" in done.output
    vg, config = open_data(tmp_path / "data"), DataConfig(num_val=1)
    found = [vg.split(name, config).image_ids.tolist() for name in ("val", "train", "test")]
    assert found == [["3"], ["1", "4"], ["2"]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (changed("images.1.id", 1), "row 1 · images.id · is unique (row 0 has it too) · '1'"),
        (changed("images.1.id", "../x"), "row 1 · images.id · can name a file · '../x'"),
        (changed("images.0.file_name", "none.jpg"), "row 0 · images.file_name · is a photo in --images"),
        (
            changed("images.2.width", 61),
            "row 2 · images.width, images.height · is the size of the upright photo (60 x 40",
        ),
        (changed("images.2.width", -1), "row 2 · images.width · Input should be greater than 0 · -1"),
        (changed("images.2.split", "test"), "row 0 · images.split · is given for all images or none · missing"),
        (changed("annotations.3.bbox", [1, 2, 3]), "row 3 · annotations.bbox"),
        (changed("annotations.3.bbox", [60, 2, 1, 4]), "row 3 · annotations.bbox · lies in the photo (60 x 40)"),
        (changed("annotations.3.image_id", 77), "row 3 · annotations.image_id · is an image · 77"),
        (changed("annotations.3.category_id", 77), "row 3 · annotations.category_id · is a category · 77"),
        (changed("annotations.3.category_id", None), "row 3 · annotations.category_id · Field required · missing"),
        (changed("annotations.3.id", "cat1"), "row 3 · annotations.id · is unique (row 0 has it too) · 'cat1'"),
        (changed("categories.1.name", "cat"), "row 1 · categories.name · is unique (row 0 has it too) · 'cat'"),
        (changed("relationships.0.object_id", "cat2"), "row 0 · relationships · joins two annotations of its image"),
        (changed("relationships.0.image_id", 2), "row 0 · relationships · joins two annotations of its image"),
        (changed("relationships.0.predicate", None), "row 0 · relationships · has one of predicate and predicate_id"),
        (changed("relationships.0.predicate_id", 4), "row 0 · relationships · has one of predicate and predicate_id"),
        (lambda content: content["relationships"].clear(), "relationships · hold at least one entry · none"),
        (lambda content: content.pop("relationships"), "in one given with --relations"),
        (lambda content: content.update(predicates=[{"id": 1, "name": "by"}]), "predicate is one of predicates"),
        (lambda content: content.pop("images"), "images · Field required · missing"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    change: Callable[[dict[str, Any]], None], line: str, photos: Path, tmp_path: Path
) -> None:
    content = small()
    change(content)
    said = refusal(*arguments(content, photos, tmp_path))
    assert line in said
    assert "coco.json" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        (
            changed("annotations.3.bbox", [1, 2, 0, 4]),
            "boxes without width or height: 1",
            "row 3 · annotations.bbox · width and height are above 0 · [1.0, 2.0, 0.0, 4.0]",
        ),
        (
            changed("annotations.3.bbox", [1, 2, 3, -4]),
            "relations to boxes without width or height: 1",
            "row 1 · relationships.object_id · has a box · 'mat2'",
        ),
        (
            changed("annotations.3.bbox", None),
            "annotations without a box: 1",
            "row 3 · annotations.bbox · is given, or a segmentation that a box can be taken from · missing",
        ),
        (
            changed("relationships.0.subject_id", 5),
            "relations to unknown annotations: 1",
            "row 0 · relationships.subject_id · is an annotation, and no crowd · 5",
        ),
        (
            changed("relationships.1.object_id", 99),
            "relations to crowds: 1",
            "row 1 · relationships.object_id · is an annotation, and no crowd · 99",
        ),
        (
            lambda content: content.update(predicates=[{"id": 1, "name": "on"}]),
            "relations of unknown predicates: 1",
            "row 3 · relationships · predicate is one of predicates · 'below'",
        ),
    ],
)
def test_what_cannot_be_used_is_left_out_and_counted_or_refused_if_asked(
    change: Callable[[dict[str, Any]], None], kind: str, line: str, photos: Path, tmp_path: Path
) -> None:
    content = small()
    change(content)
    asked = arguments(content, photos, tmp_path)
    assert line in refusal(*asked, "--strict")
    assert not (tmp_path / "data").exists()
    done = command(*asked)
    assert done.exit_code == 0, (done.output, done.exception)
    (said,) = [text for text in done.stdout.splitlines() if text.startswith(f"left out: {kind}")]
    assert line in said
    vg = open_data(tmp_path / "data")
    kept = sum(len(graph.relations) for graph in graphs(vg).values())
    assert kept == 3


def test_files_and_options_that_cannot_be_used_are_refused(photos: Path, tmp_path: Path) -> None:
    assert "cannot be read" in refusal("data", "convert", tmp_path / "no", tmp_path / "data", "--images", photos)
    assert "Invalid JSON" in refusal(*arguments('{"images": [', photos, tmp_path))
    content = small()
    for image in content["images"]:
        image["split"] = "train"
    assert "leave --test-share and --seed out" in refusal(*arguments(content, photos, tmp_path), "--seed", "3")
    (tmp_path / "relations.json").write_text('{"relationships": []}')
    both = (*arguments(small(), photos, tmp_path), "--relations", tmp_path / "relations.json")
    assert "has relationships of its own" in refusal(*both)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("options", [(), ("--copy",)])
def test_photos_that_lie_in_the_new_data_set_already_are_kept(options: tuple[str, ...], tmp_path: Path) -> None:
    """The folder of the data set was made by hand, or a conversion into it was cut off; no photo is lost."""
    folder = tmp_path / "data" / "VG_100K"
    folder.mkdir(parents=True)
    for i in range(1, 5):
        Image.new("RGB", (60, 40), (i, 0, 0)).save(folder / f"{i}.jpg", quality=100 - i)
    (folder / ".4.jpg.tmp").write_bytes(b"half")
    before = {path.name: path.read_bytes() for path in folder.glob("[1-4].jpg")}
    content = small()
    names = ("2.jpg", "1.jpg", "3.jpg", "4.jpg")  # photos 1 and 2 would take each other's place
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    assert "no copy of" in refusal(*arguments(content, folder, tmp_path), *options)
    assert {path.name: path.read_bytes() for path in folder.glob("[1-4].jpg")} == before
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    done = command(*arguments(content, folder, tmp_path), *options)
    assert done.exit_code == 0, (done.output, done.exception)
    assert {path.name: path.read_bytes() for path in folder.glob("[1-4].jpg")} == before


def test_a_damaged_photo_is_reported_as_by_data_check(photos: Path, tmp_path: Path) -> None:
    for i in range(1, 5):
        Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / f"{i}.jpg")
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:700])
    content = small()
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    done = command(*arguments(content, tmp_path, tmp_path))
    assert done.exit_code == 2, (done.output, done.exception)
    assert "VG_100K/2.jpg" in done.stdout
    assert "can be decoded" in done.stdout
