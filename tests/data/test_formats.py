"""The same scenes in every format that `data convert --from` reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from speaq.config import Config, DataConfig
from speaq.data.dataset import SceneGraphDataset
from speaq.data.formats import Source
from speaq.data.formats.reading import split_of
from speaq.data.formats.table import READERS
from speaq.data.visual_genome import VisualGenome, open_data
from tests.helpers.coco_sets import graphs
from tests.helpers.command import command, refusal
from tests.helpers.format_sets import (
    CLASSES,
    HEIGHT,
    PREDICATES,
    SPLITS,
    WIDTH,
    WRITERS,
    as_coco,
    as_open_images,
    as_psg,
    as_reltr,
    as_visual_genome,
    coco,
    scenes,
    write,
)

GIVEN = {"psg": {"val": "train"}, "gqa": {"val": "test"}, "visual-genome": None}  # splits that a format has or has not


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in SPLITS:
        Image.new("RGB", (WIDTH, HEIGHT), "olive").save(folder / f"{name}.jpg")
    return folder


def triplets(vg: VisualGenome) -> dict[str, set[tuple[Any, ...]]]:
    """Of every image, each relation with names and boxes in whole pixels."""
    objects, predicates = vg.vocabulary.objects, vg.vocabulary.predicates
    return {
        name: {
            (
                *(objects[graph.classes[subject]], *graph.boxes_xyxy[subject].round().astype(int).tolist()),
                predicates[predicate],
                *(objects[graph.classes[other]], *graph.boxes_xyxy[other].round().astype(int).tolist()),
            )
            for subject, other, predicate in graph.relations.tolist()
        }
        for name, graph in graphs(vg).items()
    }


def wanted() -> dict[str, set[tuple[Any, ...]]]:
    def corners(thing: Any) -> tuple[Any, ...]:
        label, x, y, w, h = thing
        return label, x, y, x + w, y + h

    return {
        name: {
            (*corners(scene["things"][s]), predicate, *corners(scene["things"][o]))
            for s, o, predicate in scene["relations"]
        }
        for name, scene in scenes().items()
    }


def test_every_format_has_a_reader_and_a_writer_here() -> None:
    assert set(get_args(Source)) == READERS.keys() == WRITERS.keys()


@pytest.mark.parametrize("source", WRITERS)
def test_every_format_gives_the_same_scenes(source: Source, images: Path, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    given = WRITERS[source](tmp_path / "given")
    done = command("data", "convert", given, tmp_path / "data", "--images", images, "--from", source)
    assert done.exit_code == 0, (done.output, done.exception)
    assert command("data", "check", tmp_path / "data").exit_code == 0
    vg = open_data(tmp_path / "data")
    assert sorted(vg.vocabulary.objects) == list(CLASSES)
    assert sorted(vg.vocabulary.predicates) == sorted(PREDICATES)
    assert triplets(vg) == wanted()
    if (changed := GIVEN.get(source, {})) is not None:
        num_val = sum(changed.get(split, split) == "val" for split in SPLITS.values())
        for name in ("train", "val", "test"):
            found = set(vg.split(name, DataConfig(num_val=num_val)).image_ids.tolist())
            assert found == {image for image, split in SPLITS.items() if changed.get(split, split) == name}
    config = Config()
    sample = SceneGraphDataset(vg.split("train", DataConfig(num_val=0)), config.data, True, config.seed)[0]
    assert len(sample.relations) > 0


def converted(folder: Path, images: Path, source: str, *options: str) -> Any:
    return command("data", "convert", folder, folder / "data", "--images", images, "--from", source, *options)


def test_what_is_left_out_on_the_way_is_counted(images: Path, tmp_path: Path) -> None:
    done = converted(as_open_images(tmp_path), images, "open-images")
    assert "left out: attributes: 6 rows with 'is'" in done.output
    (tmp_path / "raw").mkdir()
    done = converted(as_visual_genome(tmp_path / "raw"), images, "visual-genome")
    assert "3 objects are named by relationships.json alone" in done.output


def test_places_that_nothing_is_at_are_left_out_and_refused_when_strict(images: Path, tmp_path: Path) -> None:
    content = json.loads((as_reltr(tmp_path) / "rel.json").read_text())
    content["train"]["1"] += [[0, 17, 1], [0, -1, 1], [0, 1, 9]]
    write(tmp_path / "rel.json", content)
    said = refusal("data", "convert", tmp_path, tmp_path / "x", "--images", images, "--from", "reltr", "--strict")
    assert "relationships.object_id · has a box" not in said
    assert "rel.json" in said
    done = converted(tmp_path, images, "reltr")
    assert done.exit_code == 0
    assert "left out: relations to unknown annotations: 2" in done.output
    assert "left out: relations of unknown predicates: 1" in done.output


def test_files_that_a_mac_leaves_beside_others_are_not_read(images: Path, tmp_path: Path) -> None:
    folder = as_open_images(tmp_path)
    for path in sorted(folder.iterdir()):
        (folder / f"._{path.name}").write_bytes(b"\0\x05\x16\x07Mac OS X\xff")
    done = converted(folder, images, "open-images")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", ["image_data.json", "VG-SGG.h5"])
def test_files_of_others_in_the_new_folder_are_kept(name: str, images: Path, tmp_path: Path) -> None:
    """Visual Genome's own folder has an image_data.json."""
    folder = as_visual_genome(tmp_path)
    (folder / name).write_text("[]")
    asked = ("data", "convert", folder, folder, "--images", images, "--from", "visual-genome")
    assert "give a new folder" in refusal(*asked)
    assert (folder / name).read_text() == "[]"


def test_relations_that_count_from_1_need_a_name_of_0(images: Path, tmp_path: Path) -> None:
    content = json.loads((as_reltr(tmp_path) / "rel.json").read_text())
    write(tmp_path / "rel.json", {**content, "rel_categories": content["rel_categories"][1:]})
    said = refusal("data", "convert", tmp_path, tmp_path / "x", "--images", images, "--from", "reltr")
    assert "rel_categories · begin with '__background__' where relations count from 1 · 1 to 3 are used" in said


def test_the_commonest_names_are_kept_and_the_rest_is_counted(images: Path, tmp_path: Path) -> None:
    for source in ("psg", "visual-genome"):
        folder = tmp_path / source
        folder.mkdir()
        WRITERS[source](folder)
        given = folder / "psg.json" if source == "psg" else folder
        options = ("--classes", "2", "--predicates", "1")
        done = command("data", "convert", given, folder / "data", "--images", images, "--from", source, *options)
        assert done.exit_code == 0, (done.output, done.exception)
        assert "all but the 2 commonest of 3 classes: 3 boxes, 3 relations" in done.output
        assert "all but the 1 commonest of" in done.output
        vg = open_data(folder / "data")
        assert vg.vocabulary.objects == ("cat", "mat")
        assert len(vg.vocabulary.predicates) == 1


def test_images_without_a_photo_are_left_out_where_wanted(images: Path, tmp_path: Path) -> None:
    content = json.loads(as_psg(tmp_path).read_text())
    content["data"][0]["file_name"] = "nowhere.jpg"
    write(tmp_path / "psg.json", content)
    given = ("data", "convert", tmp_path / "psg.json", tmp_path / "data", "--images", images, "--from", "psg")
    assert "nowhere.jpg: 1 of 6 photos is missing" in refusal(*given)
    done = command(*given, "--skip-missing")
    assert done.exit_code == 0, done.output
    assert "left out: images without a photo: 1 of 6" in done.output
    assert set(graphs(open_data(tmp_path / "data"))) == set(SPLITS) - {"1"}


@pytest.mark.parametrize(
    ("source", "spoil", "line"),
    [
        ("psg", lambda c: c["data"][0].pop("file_name"), "psg.json · data.0.file_name · Field required"),
        ("psg", lambda c: c["data"][0]["annotations"].pop(), "annotations and segments_info are as many · 2 and 3"),
        ("psg", lambda c: c["data"][1]["annotations"][0].update(bbox=[0, 0, 600, 9]), "(box 2/0 of image 2)"),
        ("psg", lambda c: c["predicate_classes"].__setitem__(0, ""), "psg.json · name · String should have at least 1"),
        ("psg", lambda c: c["data"][0].update(width=0), "psg.json · width · Input should be greater than 0"),
        ("psg", lambda c: c["data"][0]["annotations"][0].update(bbox=[-1e308, 0, 1e308, 9]), "psg.json · bbox.2 · "),
        ("psg", lambda c: c["data"][1].update(file_name="/etc/hostname"), "lies below --images"),
    ],
)
def test_what_is_not_of_the_form_is_named(
    source: str, spoil: Callable[[Any], Any], line: str, images: Path, tmp_path: Path
) -> None:
    content = json.loads(as_psg(tmp_path).read_text())
    spoil(content)
    write(tmp_path / "psg.json", content)
    given = ("data", "convert", tmp_path / "psg.json", tmp_path / "data", "--images", images, "--from", source)
    assert line in refusal(*given)
    assert not (tmp_path / "data").exists()


def test_files_that_are_missing_or_too_many_are_named(images: Path, tmp_path: Path) -> None:
    given = ("data", "convert", tmp_path, tmp_path / "data", "--images", images)
    assert "relationships.json · objects.json is missing" in refusal(*given, "--from", "visual-genome")
    assert "train.json, val.json or test.json" in refusal(*given, "--from", "reltr")
    assert "holds no file *annotations-vrd.csv" in refusal(*given, "--from", "open-images")
    as_coco(tmp_path)
    write(tmp_path / "old_train.json", "{}")
    assert "instances_train.json and old_train.json are both train" in refusal(*given)
    assert "knows where its relations are" in refusal(*given, "--from", "gqa", "--relations", tmp_path / "x.json")
    assert "says how boxes are written" in refusal(*given, "--from", "gqa", "--boxes", "xyxy")


def test_a_table_without_a_column_or_with_words_for_numbers_is_named(images: Path, tmp_path: Path) -> None:
    as_open_images(tmp_path)
    path = tmp_path / "test-annotations-vrd.csv"
    text = path.read_text()
    given = ("data", "convert", tmp_path, tmp_path / "data", "--images", images, "--from", "open-images")
    write(path, text.replace("XMax2,", "", 1))
    assert "XMax2 missing" in refusal(*given)
    write(path, text.replace("0.1", "left", 1))
    assert "row 0 · XMin1 … YMax2 · are numbers" in refusal(*given)


def test_splits_that_name_other_categories_are_refused(images: Path, tmp_path: Path) -> None:
    as_coco(tmp_path)
    content = coco("test")
    content["categories"].reverse()
    write(tmp_path / "instances_test.json", content)
    said = refusal("data", "convert", tmp_path, tmp_path / "data", "--images", images)
    assert "instances_test.json: categories · are those of instances_train.json" in said


@pytest.mark.parametrize("source", WRITERS)
def test_a_folder_that_is_not_converted_yet_is_known(source: Source, tmp_path: Path) -> None:
    given = WRITERS[source](tmp_path)
    option = "" if source == "coco" else f" --from {source}"
    for path in {given, tmp_path}:
        done = command("data", "check", path)
        assert done.exit_code == 2
        assert f"is what `speaq data convert{option}` makes a data set of" in done.output


def test_a_folder_of_something_else_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "data convert" not in command("data", "check", tmp_path).output
    assert "data convert" not in command("data", "check", tmp_path / "none").output
    (tmp_path / "image_data.json").write_text("[]")  # of a data set that lacks the rest
    assert "data convert" not in command("data", "check", tmp_path).output


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("val", "val"),
        ("instances_train2017", "train"),
        ("oidv6-validation-annotations-vrd", "val"),
        ("relTest-Testing", "test"),
        ("latest", None),
        ("interval_attestation", None),
        ("trainval", None),
    ],
)
def test_a_split_is_a_word_of_a_files_name(name: str, split: str | None) -> None:
    assert split_of(Path(f"{name}.json")) == split
