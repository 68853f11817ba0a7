"""The toy world: real layout, true labels, Zipf-like frequencies, reproducible."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image, ImageDraw

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.statistics import predicate_count
from speaq.data.toy.drawing import CONNECTORS, draw_connector
from speaq.data.toy.layouts import CLOSE
from speaq.data.toy.scenes import (
    EVENTS,
    OBJECTS,
    PREDICATES,
    Scene,
    Thing,
    all_relations,
    is_held_out,
    make_picture,
    make_scene,
)
from speaq.data.toy.world import FIRST_IMAGE_ID, draw_scene, is_test, make_toy
from speaq.data.visual_genome import VisualGenome, open_data
from speaq.structures import FloatArray
from tests.helpers.shared import SHARED, needs

NUM_IMAGES = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("toy") / "world"
    make_toy(directory, NUM_IMAGES, seed=3)
    return directory


@pytest.fixture(scope="module")
def world(folder: Path) -> VisualGenome:
    warnings: list[str] = []
    data = open_data(folder, log=warnings.append)
    assert warnings == []
    return data


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(index, 0, is_test(index)) for index in range(4000)]


@needs("data", "coco128-vg")
def test_files_are_laid_out_as_the_real_ones(folder: Path) -> None:
    real = SHARED / "data" / "coco128-vg"
    with h5py.File(folder / "VG-SGG-with-attri.h5") as ours, h5py.File(real / "VG-SGG-with-attri.h5") as theirs:
        assert set(ours) == set(theirs)
        for key in theirs:
            assert ours[key].dtype == theirs[key].dtype, key
            assert ours[key].shape[1:] == theirs[key].shape[1:], key
        assert set(ours["split"][:]) == {0, 2}
    for name in ("VG-SGG-dicts-with-attri.json", "image_data.json"):
        ours_json, theirs_json = json.loads((folder / name).read_text()), json.loads((real / name).read_text())
        keys = (ours_json[0], theirs_json[0]) if isinstance(ours_json, list) else (ours_json, theirs_json)
        assert list(keys[0]) == list(keys[1]) or set(keys[0]) == set(keys[1])


def test_columns_agree_with_each_other(folder: Path) -> None:
    with h5py.File(folder / "VG-SGG-with-attri.h5") as file:
        columns = {key: file[key][:] for key in file}
    dictionaries = json.loads((folder / "VG-SGG-dicts-with-attri.json").read_text())
    assert np.abs(columns["boxes_1024"] / 2 - columns["boxes_512"]).max() <= 1
    active = np.zeros(len(columns["labels"]), dtype=bool)
    active[columns["relationships"].ravel()] = True
    assert (columns["active_object_mask"][:, 0] == active).all()
    for key, names in (("labels", "label_to_idx"), ("predicates", "predicate_to_idx")):
        assert columns[key].min() >= 1
        assert columns[key].max() <= len(dictionaries[names])
    counts = Counter(columns["predicates"][:, 0].tolist())
    assert dictionaries["predicate_count"] == {n: counts[i] for n, i in dictionaries["predicate_to_idx"].items()}
    num_boxes = (columns["img_to_last_box"] - columns["img_to_first_box"] + 1)[columns["img_to_first_box"] >= 0]
    assert num_boxes.sum() == len(columns["labels"])


def test_odd_images_occur(folder: Path) -> None:
    with h5py.File(folder / "VG-SGG-with-attri.h5") as file:
        no_box, no_relation = file["img_to_first_box"][:] < 0, file["img_to_first_rel"][:] < 0
        pairs, predicates = file["relationships"][:], file["predicates"][:]
    assert 1 <= no_box.sum() < 10
    assert 5 <= (no_relation & ~no_box).sum() < 0.1 * NUM_IMAGES
    rows = [tuple(row) for row in np.concatenate((pairs, predicates), axis=1)]
    assert len(rows) > len(set(rows))  # some come twice
    pairs_of = {row[:2] for row in set(rows)}
    assert len(set(rows)) > len(pairs_of)  # several predicates on a pair


def test_every_photo_has_the_listed_size(folder: Path) -> None:
    sizes = set()
    for entry in json.loads((folder / "image_data.json").read_text()):
        with Image.open(folder / "VG_100K" / f"{entry['image_id']}.jpg") as picture:
            assert picture.size == (entry["width"], entry["height"])
            sizes.add(picture.size)
    assert sizes == {(96, 96), (96, 80), (80, 96)}


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(f.relative_to(directory)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_toy(tmp_path / name, 20, seed)
    a, b, c = (_digests(tmp_path / name) for name in "abc")
    assert a == b
    assert sum(a[name] == c[name] for name in a) <= 1


def test_a_scene_does_not_depend_on_the_number_of_scenes(tmp_path: Path) -> None:
    make_toy(tmp_path / "few", 10, seed=5)
    make_toy(tmp_path / "many", 30, seed=5)
    few, many = _digests(tmp_path / "few" / "VG_100K"), _digests(tmp_path / "many" / "VG_100K")
    assert few.items() < many.items()


def test_progress_ends_at_the_number_of_images(tmp_path: Path) -> None:
    seen: list[int] = []
    make_toy(tmp_path, 120, seed=0, progress=seen.append)
    assert seen == [100, 120]


def test_existing_annotations_are_not_overwritten(tmp_path: Path) -> None:
    make_toy(tmp_path, 2, seed=0)
    with pytest.raises(DataError, match=r"VG-SGG-with-attri\.h5: exists already"):
        make_toy(tmp_path, 2, seed=0)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"num_images": 0}, "at least 1 image, not 0"),
        ({"seed": -1}, "seed"),
        ({"grid": 0}, "at least 1 x 1 scenes, not 0"),
        ({"annotated": 0.0}, "above 0 and at most 1, not 0.0"),
        ({"annotated": float("nan")}, "above 0 and at most 1, not nan"),
    ],
)
def test_impossible_worlds_are_refused(tmp_path: Path, asked: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        make_toy(tmp_path / "world", **{"num_images": 4, "seed": 0, **asked})


@pytest.mark.parametrize("index", [0, 3])
def test_a_picture_of_several_scenes_shows_what_holds_in_each(index: int) -> None:
    picture = make_picture(index, 3, is_test(index), grid=2)
    scenes = [make_scene(4 * index + place, 3, is_test(index)) for place in range(4)]
    assert picture.size_hw == (192, 192)
    first = 0
    for (x, y), scene in zip(((0, 0), (96, 0), (0, 96), (96, 96)), scenes, strict=True):
        things = picture.things[first : first + len(scene.things)]
        for ours, theirs in zip(things, scene.things, strict=True):
            assert ours.box == tuple(a + b for a, b in zip(theirs.box, (x, y, x, y), strict=True))
        assert {(s + first, o + first, p) for s, o, p in scene.relations} <= set(picture.relations)
        first += len(scene.things)
    assert len(picture.relations) == sum(len(scene.relations) for scene in scenes)


def test_a_share_of_the_relations_is_annotated(tmp_path: Path) -> None:
    make_toy(tmp_path, 200, seed=3, grid=2, annotated=0.5)
    data = open_data(tmp_path)
    annotated = held = 0
    for split, name in (
        (data.split("train", DataConfig(num_val=0)), "train"),
        (data.split("test", DataConfig()), "test"),
    ):
        for place in range(len(split)):
            index = int(split.image_id(place)) - FIRST_IMAGE_ID
            picture = make_picture(index, 3, name == "test", grid=2)
            graph = split.scene_graph(place)
            assert graph.size_hw == picture.size_hw
            boxes = [thing.box for thing in picture.things]
            assert np.abs(graph.boxes_xyxy - np.array(boxes)).max() < 0.5
            held += len(picture.relations)
            annotated += len({tuple(row) for row in graph.relations.tolist()})
    assert 0.45 < annotated / held < 0.55


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot be written"):
        make_toy(tmp_path / "file" / "world", 2, seed=0)


# --- Frequencies ------------------------------------------------------------------------------------------------------


def test_frequencies_fall_like_zipf_with_a_thin_tail(scenes: list[Scene]) -> None:
    counts = Counter(predicate for scene in scenes for _, _, predicate in scene.relations)
    assert set(counts) == set(PREDICATES)
    shares = np.array(sorted(counts.values(), reverse=True)) / sum(counts.values())
    slope = np.polyfit(np.log(np.arange(1, len(shares) + 1)), np.log(shares), 1)[0]
    assert -1.35 < slope < -1.05
    assert 0.003 < shares[-1] < 0.013
    assert shares[0] > 0.25


@pytest.mark.parametrize("seed", range(4))
def test_every_thousand_test_scenes_hold_twenty_of_each_predicate(seed: int) -> None:
    counts = Counter(p for i in range(3, 4000, 4) for _, _, p in make_scene(i, seed, test=True).relations)
    assert min(counts[predicate] for predicate in PREDICATES) >= 20


def test_a_quarter_is_for_testing_and_enough_of_it_has_relations(scenes: list[Scene]) -> None:
    test = [scene for index, scene in enumerate(scenes) if is_test(index)]
    assert len(test) == len(scenes) // 4
    assert sum(bool(scene.relations) for scene in test) > 0.95 * len(test)


def test_scenes_are_small(scenes: list[Scene]) -> None:
    assert {len(scene.things) for scene in scenes} <= set(range(1, 6))
    assert max(len(scene.relations) for scene in scenes) <= 8
    assert 2.3 < np.mean([len(scene.relations) for scene in scenes]) < 3.3


# --- Truth ------------------------------------------------------------------------------------------------------------

Rule = Callable[[FloatArray, FloatArray], bool]


def _gap(a: FloatArray, b: FloatArray, axis: int) -> float:
    return float(max(a[axis], b[axis]) - min(a[axis + 2], b[axis + 2]))


def _shared(a: FloatArray, b: FloatArray, axis: int) -> float:
    return -_gap(a, b, axis) / float(min(a[axis + 2] - a[axis], b[axis + 2] - b[axis]))


def _area(box: FloatArray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _near(a: FloatArray, b: FloatArray) -> bool:
    return CLOSE[0] <= _gap(a, b, 0) <= CLOSE[1] and _shared(a, b, 1) >= 0.5


def _touching(a: FloatArray, b: FloatArray) -> bool:
    return _gap(a, b, 0) == 0 and _shared(a, b, 1) >= 0.5


def _above(a: FloatArray, b: FloatArray) -> bool:
    return CLOSE[0] <= b[1] - a[3] <= CLOSE[1] and _shared(a, b, 0) >= 0.5


def _on(a: FloatArray, b: FloatArray) -> bool:
    return bool(a[3] == b[1]) and _shared(a, b, 0) >= 0.5


def _inside(a: FloatArray, b: FloatArray) -> bool:
    return bool((a[:2] > b[:2]).all() and (a[2:] < b[2:]).all())


def _hides(a: FloatArray, b: FloatArray) -> bool:
    return _gap(a, b, 0) < 0 and _gap(a, b, 1) < 0 and not _inside(a, b) and not _inside(b, a)


RULES: dict[str, Rule] = {
    "near": _near,
    "touching": _touching,
    "above": _above,
    "under": lambda a, b: _above(b, a) or _on(b, a),
    "on": _on,
    "inside": _inside,
    "behind": _hides,
    "in front of": _hides,
    "larger than": lambda a, b: _area(a) >= 2 * _area(b),
    "hanging from": lambda a, b: _above(b, a),
}


def test_relations_of_place_hold_in_the_files_and_none_but_frequent_ones_is_missing(world: VisualGenome) -> None:
    names, classes = world.vocabulary.predicates, world.vocabulary.objects
    missing = total = 0
    for split in (world.split("train", DataConfig(num_val=0)), world.split("test", DataConfig())):
        for index in range(len(split)):
            graph = split.scene_graph(index)
            boxes = np.round(graph.boxes_xyxy)
            assert np.abs(boxes - graph.boxes_xyxy).max() < 0.25  # whole pixels went in
            rows = {(int(s), int(o), names[p]) for s, o, p in graph.relations}
            for s, o, name in rows:
                assert s != o
                assert name not in RULES or RULES[name](boxes[s], boxes[o]), (split.image_id(index), name)
            for name in set(RULES) - {"behind", "in front of", "hanging from"}:
                for s, o in ((s, o) for s in range(len(boxes)) for o in range(len(boxes)) if s != o):
                    same = graph.classes[s] == graph.classes[o]
                    if RULES[name](boxes[s], boxes[o]) and (same or name != "larger than"):
                        total += 1
                        missing += (s, o, name) not in rows
                        assert (s, o, name) in rows or name in ("near", "above", "under", "on", "inside")
    assert classes == OBJECTS
    assert 0 < missing < 0.08 * total


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (44, 16), (31, 33)])
def test_a_thing_fills_its_box_and_nothing_else(name: str, size: tuple[int, int]) -> None:
    box = (20, 30, 20 + size[0], 30 + size[1])
    noise = np.zeros((192, 192, 3), np.uint8)
    things = ((), (Thing(name, box, (0, 0, 0)),))
    empty, drawn = (np.array(draw_scene(Scene((96, 96), t, (), ()), noise, random.Random(0))) for t in things)
    rows, columns = np.nonzero((empty != drawn).any(axis=2))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.array(found) - box).max() <= 1


@pytest.mark.parametrize("predicate", CONNECTORS)
def test_a_connector_is_visible_between_the_things(predicate: str) -> None:
    picture = Image.new("RGB", (96, 96))
    draw_connector(ImageDraw.Draw(picture), predicate, (10, 10, 30, 30), (46, 12, 70, 40))
    columns = np.flatnonzero(np.array(picture).any(axis=(0, 2)))
    assert np.isin(np.arange(30, 46), columns).mean() > 0.7
    assert 24 <= columns.min() <= columns.max() <= 53  # it only just reaches into them


def _mirrored(scene: Scene) -> tuple[Thing, ...]:
    width = scene.size_hw[1]
    flipped = []
    for thing in scene.things:
        x0, y0, x1, y1 = thing.box
        flipped.append(Thing(thing.name, (width - x1, y0, width - x0, y1), thing.shift, thing.chequered))
    return tuple(flipped)


def test_labels_stay_true_under_a_flip(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert set(all_relations(_mirrored(scene), scene.links)) == set(scene.relations)


def test_things_lie_in_the_picture_and_only_larger_ones_are_of_one_kind(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.size_hw
        for x0, y0, x1, y1 in (thing.box for thing in scene.things):
            assert 0 <= x0 <= x1 - 16 <= width - 16
            assert 0 <= y0 <= y1 - 16 <= height - 16
        twins = sum(predicate == "larger than" for _, _, predicate in scene.relations)
        assert len(scene.things) - len({thing.name for thing in scene.things}) == twins


def test_every_event_comes_into_pictures_as_often_as_its_share(scenes: list[Scene]) -> None:
    """Events that find no room or no kinds of things left would thin out unseen."""
    counts = Counter(p for scene in scenes for p in {p for _, _, p in scene.relations})
    rare = ["holding", "larger than", "pointing at", "lighting", "splashing"]
    rates = [counts[name] / EVENTS[name].share for name in rare]
    assert max(rates) < 1.35 * min(rates)


# --- Zero-shot --------------------------------------------------------------------------------------------------------


def test_zero_shot_triplets_occur_in_test_and_never_in_train(folder: Path, world: VisualGenome) -> None:
    stored = np.load(folder / "zeroshot_triplets.npy", allow_pickle=False)
    assert stored.dtype == np.int64
    assert stored.min() >= 1
    config = DataConfig(num_val=0)
    seen = {}
    for name in ("train", "test"):
        split = world.split(name, config)
        offset = split.box_offsets[split.relation_image]
        subject, other = (split.classes[offset + split.relations[:, place]] for place in (0, 1))
        seen[name] = {(int(s), int(o), int(p)) for s, o, p in zip(subject, other, split.relations[:, 2], strict=True)}
    assert world.zero_shot is not None
    assert {tuple(row) for row in world.zero_shot.tolist()} == seen["test"] - seen["train"]
    assert {tuple(row) for row in (stored - 1).tolist()} == seen["test"] - seen["train"]


def test_held_out_triplets_are_shown_by_test_scenes_only(scenes: list[Scene]) -> None:
    held_out = Counter(
        is_test(index)
        for index, scene in enumerate(scenes)
        for s, o, p in scene.relations
        if is_held_out(scene.things[s].name, p, scene.things[o].name)
    )
    assert held_out[False] == 0
    assert held_out[True] > 50


def test_all_predicates_occur_in_every_split_of_a_small_world(world: VisualGenome) -> None:
    assert world.vocabulary.predicates == PREDICATES
    for split in (world.split("train", DataConfig(num_val=0)), world.split("test", DataConfig())):
        assert predicate_count(split, len(PREDICATES))[:-1].min() > 0
