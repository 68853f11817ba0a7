"""The main job on real photos: train, evaluate and tune on coco128-vg."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.helpers.command import command, speaq
from tests.helpers.shared import ROOT, SHARED, needs

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest

DATA = SHARED / "data" / "coco128-vg"
SHORT = ["training.max_steps=8", "training.eval_every=4", "training.decay_steps=[6]", "training.num_threads=1"]
SETS = [part for assignment in SHORT for part in ("--set", assignment)]
CONFIG = ROOT / "configs" / "photos_small.yaml"


@needs("data", "coco128-vg")
def test_train_and_evaluate_on_photos(tmp_path: Path) -> None:
    done = speaq("train", "--config", CONFIG, "--data", DATA, "--output", tmp_path / "run", *SETS)
    assert done.returncode == 0, done.stderr
    report = json.loads(speaq("evaluate", tmp_path / "run", "--split", "test", "--json").stdout)
    assert report["images"] == 24
    assert all(value is None or 0 <= value <= 1 for value in report["metrics"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@needs("data", "coco128-vg")
def test_tune_on_photos_starts_with_the_published_setting_and_the_baseline(tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("# G?\nparameters: {matching.num_groups: {type: int, low: 1, high: 5}}\n", encoding="utf-8")
    common = ("--config", CONFIG, "--space", space, "--data", DATA, "--trials", "2", "--objective", "R@50,mR@50")
    done = command("tune", *common, "--output", tmp_path / "study", *SETS)
    assert done.exit_code == 0, (done.output, done.exception)
    with (tmp_path / "study" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["status"]) for row in rows] == [("published", "finished"), ("baseline", "finished")]
    for name in ("study.yaml", "best.yaml", "search.png", "trials/0000/config.yaml", "trials/0001/result.json"):
        assert (tmp_path / "study" / name).stat().st_size > 0
    again = ("train", "--config", tmp_path / "study" / "best.yaml", "--data", DATA, "--output", tmp_path / "again")
    done = command(*again, "--set", "training.max_steps=2")
    assert done.exit_code == 0, (done.output, done.exception)
