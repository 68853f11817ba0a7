"""Counts over splits and data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from speaq.config import DataConfig
from speaq.data.statistics import predicate_count, stats_report
from speaq.data.visual_genome import open_data
from tests.golden import triplet_count as module
from tests.golden.triplet_count import triplet_count
from tests.helpers.data_sets import arrays, write
from tests.helpers.shared import SHARED, needs

ALL = DataConfig(num_val=0, keep_images_without_relations=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs("data", name)) for name in ("vg-100", "rs-mksgg", "coco128-vg")]
)
def test_published_statistics_are_met(name: str) -> None:
    expected = json.loads((SHARED / "data" / name / "stats.json").read_text())
    expected.pop("conversion", None)  # how the source was converted is not in the files
    report = stats_report(open_data(SHARED / "data" / name, need_images=False))
    assert report == expected
    assert json.loads(json.dumps(report)) == expected


def test_predicates_are_counted_with_duplicates(tmp_path: Path) -> None:
    split = open_data(write(tmp_path)).split("train", ALL)
    assert predicate_count(split, 2).tolist() == [3, 2, 0]


def test_triplets_and_background_of_a_split(tmp_path: Path) -> None:
    """Boxes of a row overlap except in row 3, whose two ordered pairs count all the same."""
    split = open_data(write(tmp_path)).split("train", ALL)
    count = triplet_count(split, 3, 2)
    assert count.shape == (4, 4, 3)
    assert count[0, 1].tolist() == [2, 2, 1 + 3]  # rows 0, 2 and 3
    assert count[1, 0].tolist() == [1, 0, 1 + 3]
    assert count[2, 2].tolist() == [0, 0, 1]  # a box alone has no pair
    assert count[:, :, -1].sum() == 16 + 6


def test_background_is_the_same_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_data(write(tmp_path)).split("train", ALL)
    whole = triplet_count(split, 3, 2)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 1)
    np.testing.assert_array_equal(triplet_count(split, 3, 2), whole)


def test_empty_split_has_counts_of_nothing(tmp_path: Path) -> None:
    split = open_data(write(tmp_path)).split("val", ALL)
    assert len(split) == 0
    assert predicate_count(split, 2).tolist() == [0, 0, 0]
    assert triplet_count(split, 3, 2)[:, :, -1].tolist() == np.ones((4, 4)).tolist()


def test_report_without_a_list_takes_zero_shot_from_the_splits(tmp_path: Path) -> None:
    report = stats_report(open_data(write(tmp_path / "a")))
    assert report["zeroshot"] == {"triplets": 1, "test_rows": 1, "train_rows": 0}
    listed = write(tmp_path / "b", zero_shot=np.array([[1, 2, 1], [3, 3, 1]]))
    assert stats_report(open_data(listed))["zeroshot"] == {"triplets": 2, "test_rows": 1, "train_rows": 2}


def test_report_counts_duplicates_and_self_relations(tmp_path: Path) -> None:
    pairs = arrays()["relationships"]
    pairs[1], pairs[3] = pairs[0], (3, 3)
    predicates = np.array([1, 1, 1, 1, 2, 1, 2])
    report = stats_report(open_data(write(tmp_path, relationships=pairs, predicates=predicates)))
    assert (report["exact_duplicate_rows"], report["self_relations"], report["pairs"]) == (1, 1, 6)
