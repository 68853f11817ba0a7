"""Annotations as they are met elsewhere: boxes in other forms, names typed twice, photos in other places."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from speaq.data.box_forms import LAYOUTS, Form, likely_form
from speaq.data.coco.form import box_of
from speaq.data.tables import doubles, tidy
from speaq.data.visual_genome import open_data
from tests.helpers.coco_sets import arguments, changed, graphs, photos, small
from tests.helpers.command import command, refusal
from tests.helpers.shared import SHARED, needs

__all__ = ["photos"]  # the fixture

COCO = SHARED / "cases" / "coco"
PHOTOS = SHARED / "data" / "coco128-vg" / "VG_100K"
SIZE_WH = (60.0, 40.0)


def boxes(count: int, seed: int = 0) -> Any:
    """[count, 4] left, top, width, height of sound boxes in photos of `SIZE_WH`."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.1, 0.5, (count, 2))
    place = rng.uniform(0, 1, (count, 2)) * (1 - share)
    return np.concatenate((place, share), axis=1) * (*SIZE_WH, *SIZE_WH)


def written(values: Any, form: Form) -> Any:
    """The same boxes as a file of this form holds them."""
    x, y, w, h = (values / (*SIZE_WH, *SIZE_WH) if form.fractions else values).T
    columns = {
        "xywh": (x, y, w, h),
        "xyxy": (x, y, x + w, y + h),
        "cxcywh": (x + w / 2, y + h / 2, w, h),
        "yxhw": (y, x, h, w),
        "yxyx": (y, x, y + h, x + w),
    }
    return np.stack(columns[form.layout], axis=1)


FORMS = [Form(layout, fractions) for layout in LAYOUTS for fractions in (False, True)]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_read_back_and_known_by_its_looks(form: Form) -> None:
    values, sizes = boxes(200), np.tile(SIZE_WH, (200, 1))
    given = written(values, form)
    np.testing.assert_allclose(form.corners(given, sizes), Form().corners(values, sizes), atol=1e-9)
    found = likely_form(given, sizes, Form())
    if form == Form():
        assert found is None
    else:
        assert found is not None
        # Fractions do not tell which side is the longer one: x and y may be either way round.
        alike = (
            {form.layout, {"yxhw": "xywh", "yxyx": "xyxy"}[form.layout]}
            if form.fractions and form.layout[0] == "y"
            else {form.layout}
        )
        assert found[0].layout in alike
        assert found[0].fractions == form.fractions
        assert found[1] >= 0.98


@pytest.mark.parametrize("seed", range(20))
def test_few_or_sound_boxes_are_not_suspected(seed: int) -> None:
    few = written(boxes(4, seed), Form("xyxy"))
    assert likely_form(few, np.tile(SIZE_WH, (4, 1)), Form()) is None
    sound = np.round(boxes(50, seed))
    sound[:3] = [0, 0, 60, 40], [0, 0, 1, 1], [59, 39, 2, 2]  # the whole photo, one pixel, 1-based
    assert likely_form(sound, np.tile(SIZE_WH, (50, 1)), Form()) is None


@needs("cases", "coco", "three_predicates.json")
def test_fewer_predicates_than_groups_are_said_with_what_to_set(tmp_path: Path) -> None:
    done = convert("three_predicates.json", tmp_path)
    assert "of which there are 3: train with --set matching.num_groups=3" in done.output


def convert(name: str, tmp_path: Path, *options: str) -> Any:
    return command("data", "convert", COCO / name, tmp_path / "data", "--images", PHOTOS, *options)


@needs("cases", "coco", "good.json")
@pytest.mark.parametrize(
    ("name", "line", "options"),
    [
        (
            "xyxy.json",
            "19 of 36 boxes are none (rows 2, 4, 5, …); they look like corners x1, y1, x2, y2, which 100% fit: "
            "--boxes xyxy reads them so",
            ["--boxes", "xyxy"],
        ),
        ("outside.json", "lies in the photo (512 x 333) · [68.0, 145.0, 5000.0, 36.0]; --clip cuts", ["--clip"]),
        ("wrong_subfolder.json", "12 of 12 photos are missing; 12 of these names lie elsewhere, as", ["--by-name"]),
    ],
)
def test_what_it_looks_like_is_said_and_an_option_reads_it(
    name: str, line: str, options: list[str], tmp_path: Path
) -> None:
    done = convert(name, tmp_path)
    assert (done.exit_code, line in done.stderr) == (2, True), done.output
    assert not (tmp_path / "data").exists()
    assert convert(name, tmp_path, *options).exit_code == 0
    assert convert("good.json", tmp_path / "good").exit_code == 0
    ours, good = (graphs(open_data(folder / "data")) for folder in (tmp_path, tmp_path / "good"))
    for image, graph in good.items():
        if (name, image) != ("outside.json", "3"):
            np.testing.assert_array_equal(ours[image].boxes_xyxy, graph.boxes_xyxy)
    if name == "outside.json":
        np.testing.assert_allclose(ours["3"].boxes_xyxy[0], [68, 145, 512, 181], atol=1e-3)


@needs("cases", "coco", "good.json")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("relations_key.json", "'relations' looks like them (24 entries of id, subject_id, object_id, predicate)"),
        ("list_rel.json", "[100, 101, 'next to'], which looks like [subject, object, predicate]"),
        ("one_photo_missing.json", "row 0 · images.file_name · is a photo in --images · nowhere.jpg: 1 of 12 photos"),
    ],
)
def test_what_was_likely_meant_is_said_in_one_line(name: str, line: str, tmp_path: Path) -> None:
    done = convert(name, tmp_path)
    assert (done.exit_code, line in done.stderr) == (2, True), done.output
    assert "lies in the photo" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@needs("cases", "coco", "good.json")
def test_polygons_give_the_same_boxes(tmp_path: Path) -> None:
    for name in ("good", "polygon_only"):
        assert convert(f"{name}.json", tmp_path / name).exit_code == 0
    good, polygons = (open_data(tmp_path / name / "data") for name in ("good", "polygon_only"))
    np.testing.assert_allclose(polygons.annotations.boxes, good.annotations.boxes, atol=1e-3)


def test_boxes_of_masks_as_pycocotools_writes_them() -> None:
    mask = np.zeros((10, 6), dtype=np.uint8)
    mask[3:5, 2] = mask[7:9, 4] = 1
    runs = [23, 2, 22, 2, 11]
    assert np.repeat([0, 1, 0, 1, 0], runs).tolist() == mask.T.ravel().tolist()
    assert box_of({"counts": runs, "size": [10, 6]}) == (2.0, 3.0, 3.0, 6.0)
    # pycocotools 2.0.11: mask.encode(np.asfortranarray(mask))["counts"]
    assert box_of({"counts": "g02f00E", "size": [10, 6]}) == (2.0, 3.0, 3.0, 6.0)


@pytest.mark.parametrize(
    "broken", [None, [], [[]], {}, {"counts": [1], "size": [3, 3]}, {"counts": "", "size": [1, 1]}, "x", [["a", 1]]]
)
def test_what_is_no_segmentation_gives_no_box(broken: Any) -> None:
    assert box_of(broken) is None


def test_names_are_tidied_and_likely_doubles_named_or_merged(photos: Path, tmp_path: Path) -> None:
    content = small()
    for row, name in enumerate(("on", " on ", "On", "o n")):
        content["relationships"][row]["predicate"] = name
    content["categories"].append({"id": 8, "name": "Cat\u00a0"})
    content["annotations"][0]["category_id"] = 8
    done = command(*arguments(content, photos, tmp_path))
    assert done.exit_code == 0, done.output
    assert "predicates: 1 name tidied (white space, NFC): ' on '" in done.stdout
    assert "predicates: likely doubles stay apart: 'On' = 'o n' = 'on'; --merge-names makes each one" in done.stdout
    assert "classes: likely doubles stay apart: 'cat' = 'Cat'" in done.stdout
    assert open_data(tmp_path / "data").vocabulary.predicates == ("On", "o n", "on")
    (tmp_path / "merged").mkdir()
    done = command(*arguments(content, photos, tmp_path / "merged"), "--merge-names")
    assert done.exit_code == 0, done.output
    merged = open_data(tmp_path / "merged" / "data")
    assert merged.vocabulary.predicates == ("on",)
    assert merged.vocabulary.objects == ("cat", "mat")
    assert graphs(merged)["1"].classes.tolist() == [0, 1]


def test_the_commonest_names_are_counted_as_they_are_merged_and_tidied(photos: Path, tmp_path: Path) -> None:
    content = small()
    content["relationships"].append({"subject_id": "mat1", "object_id": "cat1", "predicate": "below"})
    for row, name in enumerate(("on", "On", "ON ")):
        content["relationships"][row]["predicate"] = name
    content["categories"] += [{"id": 8, "name": "Cat"}, {"id": 9, "name": "dog"}]
    content["annotations"][0]["category_id"] = 8
    given = (*arguments(content, photos, tmp_path), "--merge-names", "--predicates", "1", "--classes", "2")
    done = command(*given)
    assert done.exit_code == 0, done.output
    assert "all but the 2 commonest of 3 classes: 0 boxes, 0 relations" in done.stdout
    assert "all but the 1 commonest of 2 predicates: 2 relations" in done.stdout
    assert open_data(tmp_path / "data").vocabulary.objects == ("cat", "mat")
    assert [name.lower() for name in open_data(tmp_path / "data").vocabulary.predicates] == ["on"]
    content["predicates"] = [{"id": 0, "name": "below"}, {"id": 1, "name": " on"}]  # untidy in the list alone
    for row in range(3):
        content["relationships"][row]["predicate"] = "on"
    (tmp_path / "listed").mkdir()
    done = command(*arguments(content, photos, tmp_path / "listed"), "--predicates", "1")
    assert done.exit_code == 0, done.output
    assert open_data(tmp_path / "listed" / "data").vocabulary.predicates == ("on",)


@pytest.mark.parametrize("name", ["a\x1b[31mb", "x" * 201])
def test_names_that_no_data_set_has_are_refused_before_anything_is_written(
    name: str, photos: Path, tmp_path: Path
) -> None:
    for part, key in (("categories", "name"), ("relationships", "predicate")):
        content = small()
        content[part][0][key] = name
        assert f"{part}.{key} · names are printable text" in refusal(*arguments(content, photos, tmp_path))
    assert not (tmp_path / "data").exists()


def test_tidy_and_doubles() -> None:
    assert tidy(" Cafe\u0301\t au  lait\ufeff ") == "Café au lait"
    assert doubles(["next to", "next_to", "Next-To", "near", "nearby", "\uff4eear"]) == [
        ["next to", "next_to", "Next-To"],
        ["near", "\uff4eear"],
    ]
    assert doubles(["-", "_", " "]) == []


def harmless(content: dict[str, Any]) -> None:
    """The same content as other programs write it."""
    for image in content["images"]:
        image.update(id=f"{image['id']}", width=60.0, height="40")
    for annotation in content["annotations"]:
        annotation["image_id"] = float(annotation["image_id"])
        annotation["category_id"] = str(annotation["category_id"])
        annotation["bbox"] = [str(number) for number in annotation["bbox"]]
        annotation["iscrowd"] = bool(annotation.get("iscrowd", 0))


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_json_of_other_programs_gives_the_same_data_set(
    mark: bytes, encoding: str, photos: Path, tmp_path: Path
) -> None:
    for name, change in (("ours", lambda content: None), ("theirs", harmless)):
        content = small()
        change(content)
        (tmp_path / name).mkdir()
        asked = arguments(content, photos, tmp_path / name)
        if name == "theirs":
            (tmp_path / name / "coco.json").write_bytes(mark + json.dumps(content).encode(encoding))
        done = command(*asked)
        assert done.exit_code == 0, done.output
        assert "1 crowds left out" in done.stdout
    assert open_data(tmp_path / "ours" / "data").digest == open_data(tmp_path / "theirs" / "data").digest


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../secret.png", "lead out of it"), ("{}/secret.png", "lead out of it"), ("link.png", "by a link")],
)
def test_nothing_outside_the_folder_of_photos_is_taken_unless_asked_for(name: str, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (60, 40), "red").save(tmp_path / "secret.png")
    for i in range(1, 5):
        Image.new("RGB", (60, 40), "olive").save(folder / f"{i}.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    content = small()
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.png"
    content["images"][1]["file_name"] = name.format(tmp_path)
    asked = (*arguments(content, folder, tmp_path), "--copy")
    said = refusal(*asked)
    assert reason in said
    assert "row 1 · images.file_name" in said
    assert "--outside-images" in said
    assert not (tmp_path / "data").exists()
    assert command(*asked, "--outside-images").exit_code == 0


def test_both_folders_of_visual_genome_are_looked_into(tmp_path: Path) -> None:
    content = small()
    for i, folder in enumerate(("VG_100K", "VG_100K_2", "VG_100K", "VG_100K_2"), start=1):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), "olive").save(tmp_path / folder / f"{i}.jpg")
        content["images"][i - 1]["file_name"] = f"{i}.jpg"
    said = refusal(*arguments(content, tmp_path / "VG_100K", tmp_path))
    assert "2.jpg, 4.jpg: 2 of 4 photos are missing; 2 of these names lie elsewhere, as 2.jpg in" in said
    assert command(*arguments(content, tmp_path, tmp_path)).exit_code == 0


@pytest.mark.parametrize(
    "change",
    [
        changed("annotations.3.bbox", [0.5, 10.5, 60.5, 30]),  # one pixel off: 1-based
        changed("annotations.3.bbox", [-1, -1, 61, 41]),
    ],
)
def test_boxes_that_reach_slightly_outside_are_cut_and_counted(
    change: Callable[[dict[str, Any]], None], photos: Path, tmp_path: Path
) -> None:
    content = small()
    change(content)
    done = command(*arguments(content, photos, tmp_path))
    assert done.exit_code == 0, done.output
    assert "1 boxes cut at the edge of their photo (0 reached far outside)" in done.stdout
    x1, y1, x2, y2 = graphs(open_data(tmp_path / "data"))["2"].boxes_xyxy[1]
    assert min(x1, y1) >= -1e-3
    assert x2 <= 60 + 1e-3
    assert y2 <= 40 + 1e-3
