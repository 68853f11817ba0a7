"""Zero-shot triplets from the rows themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speaq.config import DataConfig
from speaq.data.statistics import zero_shot_triplets
from speaq.data.visual_genome import Split, VisualGenome, open_data
from tests.helpers import data_sets
from tests.helpers.shared import SHARED, needs

REAL = [pytest.param(name, marks=needs("data", name)) for name in ("coco128-vg", "vg-100")]


def kinds(split: Split) -> list[tuple[int, int, int]]:
    """The triplet of every row, image by image."""
    graphs = [split.scene_graph(index) for index in range(len(split))]
    return [(int(g.classes[s]), int(g.classes[o]), int(p)) for g in graphs for s, o, p in g.relations]


def recomputed(vg: VisualGenome, split: Split, config: DataConfig) -> list[tuple[int, ...]]:
    found = zero_shot_triplets(vg, split, config, "recompute")
    assert found is not None
    return [tuple(row) for row in found.tolist()]


@needs("data", "coco128-vg")
def test_equals_the_published_list_of_the_photos() -> None:
    folder = SHARED / "data" / "coco128-vg"
    vg, config = open_data(folder, need_images=False), DataConfig(num_val=10)
    test = vg.split("test", config)
    found = recomputed(vg, test, config)
    stated = json.loads((folder / "stats.json").read_text())["zeroshot"]
    assert (len(found), sum(kind in set(found) for kind in kinds(test))) == (stated["triplets"], stated["test_rows"])
    assert (stated["triplets"], stated["test_rows"]) == (74, 116)
    listed = zero_shot_triplets(vg, test, config, "file")
    assert listed is not None
    assert {tuple(row) for row in listed.tolist()} == set(found)


@pytest.mark.parametrize("name", REAL)
def test_val_counts_what_train_never_shows(name: str) -> None:
    vg, config = open_data(SHARED / "data" / name, need_images=False), DataConfig(num_val=10)
    train, val, test = (vg.split(part, config) for part in ("train", "val", "test"))
    assert recomputed(vg, val, config) == sorted(set(kinds(val)) - set(kinds(train)))
    assert recomputed(vg, test, config) == sorted(set(kinds(test)) - set(kinds(train)) - set(kinds(val)))
    assert recomputed(vg, train, config) == []
    some = val.first(4)  # the other val images are no part of this evaluation
    assert set(recomputed(vg, some, config)) <= set(recomputed(vg, val, config))


def test_rows_that_the_overlap_filter_drops_are_shown_all_the_same(tmp_path: Path) -> None:
    predicates = np.array([1, 1, 1, 1, 2, 2, 2])[:, None]  # row 3's triplet, without overlap, is tested too
    vg = open_data(data_sets.write(tmp_path, predicates=predicates), need_images=False)
    config = DataConfig(num_val=0, filter_non_overlap=True)
    test = vg.split("test", config)
    every_train_row = vg.split("train", DataConfig(num_val=0))
    expected = sorted(set(kinds(test)) - set(kinds(every_train_row)))
    assert recomputed(vg, test, config) == expected
    assert expected != sorted(set(kinds(test)) - set(kinds(vg.split("train", config))))
    assert zero_shot_triplets(vg, test, config, "file") is None
    assert np.array_equal(expected, zero_shot_triplets(vg, test, DataConfig(num_val=0), "recompute"))
