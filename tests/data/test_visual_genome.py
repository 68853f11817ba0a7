"""Files → splits → scene graphs (method section 1)."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from speaq.config import DataConfig
from speaq.data import DataError
from speaq.data.records import corners
from speaq.data.statistics import stats_report, zero_shot_triplets
from speaq.data.visual_genome import check, find_files, open_data
from tests.helpers.data_sets import arrays, write
from tests.helpers.shared import SHARED, needs

NO_VAL = DataConfig(num_val=0)


def ids(directory: Path, name: Any, **config: Any) -> list[str]:
    split = open_data(directory).split(name, DataConfig(**{"num_val": 0, **config}))
    return [split.image_id(i) for i in range(len(split))]


def test_val_is_the_first_of_train_after_filtering(tmp_path: Path) -> None:
    write(tmp_path)
    assert ids(tmp_path, "train") == ["11", "13", "14"]  # 12 has no relation
    assert ids(tmp_path, "val", num_val=2) == ["11", "13"]
    assert ids(tmp_path, "train", num_val=2) == ["14"]
    assert ids(tmp_path, "test") == ["15", "16"]
    assert ids(tmp_path, "val", num_val=2, keep_images_without_relations=True) == ["11", "12"]


def test_the_h5s_own_val_rows_are_val_where_asked_for(tmp_path: Path) -> None:
    write(tmp_path, split=np.array([0, 0, 1, 1, 2, 2], np.int32))
    asked: dict[str, Any] = {"val": "split", "num_val": 0}
    assert [ids(tmp_path, name, **asked) for name in ("train", "val", "test")] == [["11"], ["13", "14"], ["15", "16"]]
    assert ids(tmp_path, "train", keep_images_without_relations=True, **asked) == ["11", "12"]
    assert [ids(tmp_path, name, num_val=0) for name in ("train", "val")] == [["11"], []]  # left out, with a warning
    lines: list[str] = []
    data = open_data(tmp_path, log=lines.append)
    (line,) = lines
    assert (
        "row 2 · split · 1 is val with data.val=split data.num_val=0; the rows are left out otherwise · 2 rows" in line
    )
    report = stats_report(data)["splits"]
    assert {name: split["images"] for name, split in report.items()} == {"train": 2, "val": 2, "test": 2}


def test_num_val_has_no_effect_on_the_h5s_own_val_rows() -> None:
    with pytest.raises(ValidationError, match="num_val 5000 has no effect with val: split"):
        DataConfig(val="split")


def test_triplets_of_the_h5s_own_val_rows_are_no_zero_shot_of_test(tmp_path: Path) -> None:
    data = open_data(write(tmp_path, split=np.array([2, 0, 0, 1, 0, 2], np.int32)))

    def found(name: Any, config: DataConfig) -> Any:
        triplets = zero_shot_triplets(data, data.split(name, config), config, "recompute")
        return None if triplets is None else triplets.tolist()

    own = DataConfig(val="split", num_val=0)
    assert found("test", own) == [[2, 2, 1]]
    assert found("val", own) == [[0, 1, 1]]
    assert found("test", NO_VAL) == [[0, 1, 1], [2, 2, 1]]  # its only other image is left out


def test_overlap_filter_touches_train_alone(tmp_path: Path) -> None:
    write(tmp_path)
    assert ids(tmp_path, "train", filter_non_overlap=True) == ["11", "13"]
    assert ids(tmp_path, "val", num_val=3, filter_non_overlap=False) == ["11", "13", "14"]
    assert ids(tmp_path, "test", filter_non_overlap=True) == ["15", "16"]


def test_val_that_takes_everything_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=r"data\.num_val leaves no image to train on \(5000 of 3 train"):
        open_data(tmp_path).split("train", DataConfig())


def test_scene_graph_is_local_zero_based_and_keeps_every_row(tmp_path: Path) -> None:
    graph = open_data(write(tmp_path)).split("train", NO_VAL).scene_graph(1)
    assert graph.image_id == "13"
    assert graph.size_hw == (64, 48)
    assert graph.classes.tolist() == [0, 1]
    assert graph.relations.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert graph.boxes_xyxy.dtype == np.float32


def test_corners_of_integer_boxes_are_truncated_toward_zero() -> None:
    whole = np.array([[10, 10, 5, 5], [1, 1, 5, 3]], np.int32)
    assert corners(whole).tolist() == [[7, 7, 12, 12], [-1, 0, 4, 3]]  # not [7.5, …], not [-2, …]
    assert corners(whole.astype(np.float32)).tolist() == [[7.5, 7.5, 12.5, 12.5], [-1.5, -0.5, 3.5, 2.5]]


@given(st.lists(st.tuples(*[st.floats(1, 1024, width=32)] * 4), min_size=1))
def test_corners_keep_centre_and_size(boxes: list[tuple[float, ...]]) -> None:
    values = np.array(boxes)
    result = corners(values)
    np.testing.assert_allclose((result[:, :2] + result[:, 2:]) / 2, values[:, :2], atol=1e-9)
    np.testing.assert_allclose(result[:, 2:] - result[:, :2], values[:, 2:], atol=1e-9)


def test_the_photo_wins_over_the_listed_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path)
    Image.new("RGB", (96, 32)).save(tmp_path / "VG_100K" / "11.jpg")
    split = open_data(tmp_path).split("train", NO_VAL)
    assert not split.landscape[0]  # as listed: photos are not opened for it
    with caplog.at_level(logging.WARNING):
        graph = split.scene_graph(0)
    assert graph.size_hw == split.size_hw(0) == (32, 96)
    assert "lists 48 x 64, the photo is 96 x 32" in caplog.text
    expected = corners(open_data(tmp_path).annotations.boxes[:2]) / 1024 * 96
    np.testing.assert_allclose(graph.boxes_xyxy, expected, rtol=1e-6)


def test_a_size_that_is_given_is_not_read(tmp_path: Path) -> None:
    write(tmp_path)
    split = open_data(tmp_path).split("train", NO_VAL)
    split.image_path(0).unlink()
    assert split.scene_graph(0, (32, 96)).size_hw == (32, 96) == split.size_hw(0)
    split.image_path(1).unlink()
    with pytest.raises(DataError, match=r"13\.jpg: no such file"):
        split.scene_graph(1)


def test_without_images_the_listed_sizes_hold(tmp_path: Path) -> None:
    write(tmp_path, photos=False)
    split = open_data(tmp_path, need_images=False).split("train", NO_VAL)
    assert split.scene_graph(0).size_hw == (64, 48)
    with pytest.raises(DataError, match="VG_100K · is the folder of the photos"):
        open_data(tmp_path)


def test_a_missing_size_comes_from_the_photo(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "image_data.json"
    path.write_text(path.read_text().replace('"height": 64', '"height": 0', 1))
    lines: list[str] = []
    split = open_data(tmp_path, log=lines.append).split("train", NO_VAL)
    assert split.listed_hw[0].tolist() == [64, 48]
    assert "row 0" in lines[0]
    with pytest.raises(DataError, match=r"image_data\.json · row 0 · width, height"):
        open_data(tmp_path, need_images=False)


def test_surplus_ids_go_only_where_the_h5_has_no_rows_for_them(tmp_path: Path) -> None:
    surplus = [1592, 11, 12, 1722, 13, 14, 4616, 15, 16, 4617]
    write(tmp_path / "surplus", ids=surplus, sizes_hw=((64, 48),) * 10)
    assert ids(tmp_path / "surplus", "train") == ["11", "13", "14"]
    write(tmp_path / "ordinary", ids=["1592", "1722", "4616", "4617", "a", "b"])
    assert ids(tmp_path / "ordinary", "train") == ["1592", "4616", "4617"]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\\b", "a\nb", ".hidden", "x" * 101])
def test_ids_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, photos=False, ids=[1, 2, 3, 4, 5, name])
    with pytest.raises(DataError, match=r"image_data\.json · row 5 · image_id"):
        open_data(tmp_path, need_images=False)


def test_number_and_text_of_one_id_are_the_same_file(tmp_path: Path) -> None:
    write(tmp_path, photos=False, ids=[1, 2, 3, 4, 5, "1"])
    with pytest.raises(DataError, match="row 5 · image_id · is unique"):
        open_data(tmp_path, need_images=False)


def test_zero_shot_list_becomes_zero_based(tmp_path: Path) -> None:
    data = open_data(write(tmp_path, zero_shot=np.array([[1, 3, 2]])))
    assert data.zero_shot is not None
    assert data.zero_shot.tolist() == [[0, 2, 1]]
    assert open_data(write(tmp_path / "none")).zero_shot is None


def test_the_fields_own_zero_shot_file_is_read(tmp_path: Path) -> None:
    directory = write(tmp_path)
    torch.save(torch.tensor([[1, 3, 2]]), directory / "zeroshot_triplet.pytorch")
    data = open_data(directory)
    assert data.zero_shot is not None
    assert data.zero_shot.tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("content", [[1, 2, 3], {"a": Path("x")}])
def test_another_file_under_its_name_is_refused(tmp_path: Path, content: Any) -> None:
    directory = write(tmp_path)
    torch.save(content, directory / "zeroshot_triplet.pytorch")
    with pytest.raises(DataError, match=r"zeroshot_triplet\.pytorch · is a tensor") as caught:
        open_data(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("triplets", [[[0, 1, 1]], [[1, 1, 3]], [[4, 1, 1]], [[1.0, 1, 1]], [1, 1, 1], [[1, 1]]])
def test_zero_shot_lists_outside_the_dictionary_are_refused(tmp_path: Path, triplets: Any) -> None:
    write(tmp_path, zero_shot=np.array(triplets))
    with pytest.raises(DataError, match=r"zeroshot_triplets\.npy"):
        open_data(tmp_path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / "zeroshot_triplets.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"zeroshot_triplets\.npy · is a \.npy array"):
        open_data(tmp_path)


def test_512_scale_gives_the_same_pixels(tmp_path: Path) -> None:
    boxes = np.tile([[300, 300, 200, 100]], (11, 1))
    write(tmp_path, boxes_1024=boxes, boxes_512=boxes // 2)
    large, small = (open_data(tmp_path, box_scale=scale).split("test", NO_VAL) for scale in (1024, 512))
    np.testing.assert_allclose(large.scene_graph(0).boxes_xyxy, small.scene_graph(0).boxes_xyxy)


def test_either_file_name_is_found(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "VG-SGG-with-attri.h5").rename(tmp_path / "VG-SGG.h5")
    (tmp_path / "VG-SGG-dicts-with-attri.json").rename(tmp_path / "VG-SGG-dicts.json")
    assert find_files(tmp_path).annotations.name == "VG-SGG.h5"
    assert ids(tmp_path, "test") == ["15", "16"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.* is a directory"):
        find_files(tmp_path / "nowhere")
    write(tmp_path)
    (tmp_path / "image_data.json").unlink()
    with pytest.raises(DataError, match=r"image_data\.json · is in the directory · missing"):
        open_data(tmp_path)


def test_digest_follows_the_annotations(tmp_path: Path) -> None:
    first = open_data(write(tmp_path / "a")).digest
    assert first == open_data(tmp_path / "a").digest
    with h5py.File(tmp_path / "a" / "VG-SGG-with-attri.h5", "a") as file:
        file["labels"][0] = 2
    assert first != open_data(tmp_path / "a").digest


def test_first_images_and_pickling_keep_the_graphs(tmp_path: Path) -> None:
    split = open_data(write(tmp_path)).split("train", NO_VAL)
    for other in (split.first(2), pickle.loads(pickle.dumps(split))):
        graph, expected = other.scene_graph(1), split.scene_graph(1)
        np.testing.assert_array_equal(graph.relations, expected.relations)
        np.testing.assert_array_equal(graph.boxes_xyxy, expected.boxes_xyxy)
    assert len(split.first(2)) == 2
    assert len(split.first(99)) == 3


def test_many_bad_rows_stay_one_line(tmp_path: Path) -> None:
    labels = arrays()["labels"] * 0
    write(tmp_path, labels=labels)
    with pytest.raises(DataError, match=r"labels .* and 8 more$") as caught:
        open_data(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(check(tmp_path)) == len(labels)


def test_a_box_beside_the_photo_is_a_warning(tmp_path: Path) -> None:
    boxes = arrays()["boxes_1024"]
    boxes[10] = (900, 500, 20, 20)  # the photo is 768 wide on this scale
    write(tmp_path, boxes_1024=boxes)
    (problem,) = check(tmp_path)
    assert (problem.severity, problem.row) == ("warning", 10)
    assert "lies in the photo (768 x 1024 on this scale)" in str(problem)


def many_boxes(form: str) -> Any:
    """The boxes of 40 images of 64 x 48, two each, as a converter that takes `form` wrongly leaves them."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0.1, 0.5, (80, 2))
    low = rng.uniform(0, 1, (80, 2)) * (1 - share) * (768, 1024)
    size = share * (768, 1024)
    centre = low + size / 2
    columns = {
        "sound": (centre, size),
        "corners": (low, low + size),
        "left top": (low, size),
        "corners taken for left top": (low + (low + size) / 2, low + size),
        "fractions": (centre / (768, 1024), size / (768, 1024)),
        "pixels": (centre / 16, size / 16),
    }
    return np.concatenate(columns[form], axis=1).astype(np.float32)


def write_many(directory: Path, boxes: Any, **changes: Any) -> Path:
    rows = np.arange(40, dtype=np.int32)
    columns = {
        "split": np.where(rows < 30, 0, 2).astype(np.int32),
        "img_to_first_box": 2 * rows,
        "img_to_last_box": 2 * rows + 1,
        "img_to_first_rel": rows,
        "img_to_last_rel": rows,
        "boxes_1024": boxes,
        "labels": np.ones((80, 1), np.int64),
        "relationships": np.stack((2 * rows, 2 * rows + 1), axis=1),
        "predicates": np.ones((40, 1), np.int64),
    }
    return write(directory, sizes_hw=((64, 48),) * 40, **(columns | changes))


@pytest.mark.parametrize(
    ("form", "looks"),
    [
        ("corners", "corners x1, y1, x2, y2 (100% fit so)"),
        ("left top", "left, top, width, height (100% fit so)"),
        ("corners taken for left top", "corners x1, y1, x2, y2, converted as if they were left, top, width, height"),
        ("fractions", "fractions of the photo's sides"),
        ("pixels", "pixels of the photo"),
    ],
)
def test_boxes_in_another_form_are_noticed(form: str, looks: str, tmp_path: Path) -> None:
    write_many(tmp_path, many_boxes(form))
    (problem,) = check(tmp_path)
    assert problem.severity == "error"
    assert problem.field == "boxes_1024"
    assert f"they look like {looks}" in str(problem)
    lines: list[str] = []
    open_data(tmp_path, log=lines.append)
    assert f"they look like {looks}" in lines[0]


def test_boxes_that_reach_far_outside_are_counted_in_one_line(tmp_path: Path) -> None:
    boxes = many_boxes("sound")
    assert check(write_many(tmp_path / "sound", boxes)) == []
    boxes[[5, 9]] += (0, 0, 900, 0)
    (problem,) = check(write_many(tmp_path / "far", boxes))
    assert (problem.severity, problem.row) == ("warning", 5)
    assert "2 of 80 boxes (rows 9 too) are far outside it" in problem.value


def test_names_that_are_likely_one_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "VG-SGG-dicts-with-attri.json"
    names = {"label_to_idx": {"cat": 1, "Cat": 2, "hat": 3}, "predicate_to_idx": {" on": 1, "near": 2}}
    path.write_text("\ufeff" + json.dumps(names), encoding="utf-8")
    problems = check(tmp_path)
    assert [(problem.field, problem.value, problem.severity) for problem in problems] == [
        ("label_to_idx", "'cat' = 'Cat'", "warning"),
        ("predicate_to_idx", "' on'", "warning"),
    ]


def test_photos_are_found_in_both_folders_of_visual_genome(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "VG_100K_2").mkdir()
    for name in ("11", "14", "16"):
        (tmp_path / "VG_100K" / f"{name}.jpg").rename(tmp_path / "VG_100K_2" / f"{name}.jpg")
    assert check(tmp_path) == []
    split = open_data(tmp_path).split("train", NO_VAL)
    assert [split.image_path(i).parent.name for i in range(3)] == ["VG_100K_2", "VG_100K", "VG_100K_2"]
    assert [split.size_hw(i) for i in range(3)] == [(64, 48)] * 3


def test_missing_photos_are_one_line(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "VG_100K" / "11.jpg").rename(tmp_path / "VG_100K" / "11.png")
    for name in ("13", "16"):
        (tmp_path / "VG_100K" / f"{name}.jpg").unlink()
    (problem,) = check(tmp_path)
    assert (problem.file, problem.row) == ("VG_100K/11.jpg", 0)
    assert problem.value == (
        "missing; 3 of 6 photos are (13.jpg, 16.jpg too); 11.png lies there, but photos are named <image_id>.jpg"
    )


@needs("data", "rs-mksgg")
def test_the_other_layout_keeps_all_its_rows() -> None:
    lines: list[str] = []
    data = open_data(SHARED / "data" / "rs-mksgg", need_images=False, log=lines.append)
    assert not lines
    split = data.split("train", DataConfig(num_val=0, keep_images_without_relations=True))
    assert (len(data.images.ids), len(split)) == (7306, 5996)
    assert data.annotations.boxes.dtype == np.float32
    assert {"1592", "1722", "4616", "4617"} <= set(split.image_ids.tolist())
    assert split.scene_graph(0).image_id == "1"


@needs("data", "vg-100")
def test_real_annotations_open() -> None:
    lines: list[str] = []
    data = open_data(SHARED / "data" / "vg-100", need_images=False, log=lines.append)
    assert not lines
    assert (data.num_classes, data.num_predicates) == (150, 50)
    assert data.zero_shot is not None
    assert data.zero_shot.min() == 0
    assert len(data.split("test", NO_VAL)) == 21
