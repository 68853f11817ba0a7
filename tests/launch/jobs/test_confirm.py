"""`speaq confirm` on a study whose trials are real configs: real training, a real kill, what it says and refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speaq.study import file as study_record

pytest.importorskip("ray")
pytest.importorskip("optuna")

from launch.jobs.confirm import parse_seeds
from launch.store.claim import claimed
from speaq import config as configs
from speaq.config import ConfigError
from speaq.evaluation.bootstrap import load_record, measure, save_record
from speaq.evaluation.table import NEVER
from speaq.study.ledger import Ledger
from tests.helpers.command import command, refusal
from tests.helpers.finished_study import make_study
from tests.helpers.tiny import tiny


@pytest.fixture(scope="module")
def study(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied by who writes into it."""
    return make_study(tmp_path_factory.mktemp("study") / "study", toy, tiny())


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    return shutil.copytree(study, tmp_path / "study")


def confirmed(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "confirm" / "confirm.json").read_text())
    return content


def finished_at(folder: Path) -> dict[str, int]:
    """When each run's result was written."""
    found = sorted((folder / "confirm").glob("*/seed-*/result.json"))
    return {str(path.parent.relative_to(folder / "confirm")): path.stat().st_mtime_ns for path in found}


def plant(run: Path, chance: float, seed: int) -> None:
    """Puts a recall of our choice into a run that has ended, into its table and its result."""
    record = load_record(run / "images.npz")
    rows = record.table.rows
    rank = np.where(np.random.default_rng(seed).random(len(rows.rank)) < chance, 0, NEVER)
    planted = replace(record, table=replace(record.table, predicted=record.table.predicted | True))
    planted = replace(planted, table=replace(planted.table, rows=replace(rows, rank=rank)))
    save_record(planted, run / "images.npz")
    result = json.loads((run / "result.json").read_text())
    result["best"]["metrics"]["R@50"] = measure(planted, ["R@50"]).value
    (run / "result.json").write_text(json.dumps(result))


def test_the_best_and_the_published_setting_are_trained_again_and_compared(copy: Path) -> None:
    asked = ("confirm", copy, "--top", "1", "--seeds", "3..4")
    done = command(*asked)
    assert done.exit_code == 0, (done.output, done.exception)
    before = finished_at(copy)
    assert list(before) == ["0000/seed-3", "0000/seed-4", "0002/seed-3", "0002/seed-4"]
    for number, run in enumerate(before):  # networks this small find nothing
        plant(copy / "confirm" / run, 0.3 if run.startswith("0000") else 0.7, number)
    before = finished_at(copy)
    done = command(*asked)
    content = confirmed(copy)
    best, published = content["settings"]
    assert (best["trial"], best["search"], published["label"]) == ("0002", 0.9, "published")
    assert (content["trials"], content["seeds"], content["complete"]) == (4, [3, 4], True)
    for setting in content["settings"]:
        for seed, value in setting["seeds"].items():
            run = copy / "confirm" / setting["trial"] / f"seed-{seed}"
            result = json.loads((run / "result.json").read_text())
            assert 0.1 < value < 0.95
            assert value == result["best"]["metrics"]["R@50"]
    assert best["mean"]["value"] == pytest.approx(sum(best["seeds"].values()) / 2)
    assert content["optimism"]["value"] == pytest.approx(0.9 - best["mean"]["value"])
    over = best["over_published"]
    assert over["value"] == pytest.approx(best["mean"]["value"] - published["mean"]["value"])
    points = f"{100 * over['value']:+.1f} R@50 [{100 * over['low']:.1f}, {100 * over['high']:.1f}]"
    assert over["text"] == f"{points} over the published setting"
    assert over["value"] > 0.1
    assert f"trial 0002: {over['text']}" in done.stdout
    optimism = f"optimism of being the best of 4 trials: {100 * content['optimism']['value']:+.1f} R@50 ["
    assert optimism in done.stdout

    again = command(*asked, "--json")
    assert json.loads(again.stdout) == content
    assert finished_at(copy) == before
    assert "is sealed" in refusal("evaluate", copy / "confirm" / "0002" / "seed-3", "--split", "test")
    config = copy / "confirm" / "0002" / "seed-3" / "config.yaml"
    config.write_text(config.read_text().replace("batch_size: 4", "batch_size: 2", 1))
    assert "holds a run of another config" in refusal(*asked)


def test_the_published_setting_is_compared_where_the_search_left_it_out(toy: Path, tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study", toy, tiny(), references=[])
    done = command("confirm", folder, "--top", "1", "--seeds", "3")
    assert done.exit_code == 0, (done.output, done.exception)
    assert list(finished_at(folder)) == ["0002/seed-3", "published/seed-3"]
    best, published = confirmed(folder)["settings"]
    assert (published["trial"], published["label"], published["search"]) == ("published", "published", None)
    assert best["over_published"]["value"] == pytest.approx(best["mean"]["value"] - published["mean"]["value"])
    config = configs.load(folder / "confirm" / "published" / "seed-3" / "config.yaml")
    assert configs.apply(config, configs.PUBLISHED) == config
    assert command("report", folder).exit_code == 0


def test_a_killed_one_goes_on_and_repeats_no_finished_run(copy: Path) -> None:
    arguments = [sys.executable, "-m", "speaq.cli", "confirm", str(copy), "--top", "3", "--seeds", "5"]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        while process.poll() is None and len(finished_at(copy)) < 1:
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = finished_at(copy)
    assert process.returncode == -signal.SIGKILL, "ended before it was killed"
    done = command("confirm", copy, "--top", "3", "--seeds", "5")
    assert done.exit_code == 0, (done.output, done.exception)
    after = finished_at(copy)
    assert list(after) == ["0000/seed-5", "0002/seed-5", "0003/seed-5"]
    assert before.items() <= after.items()
    assert confirmed(copy)["settings"][0]["over_images_alone"]
    assert "over the images alone" in done.stdout
    assert "one seed: no interval" in done.stdout


def test_settings_that_cannot_be_trained_leave_and_say_why(toy: Path, tmp_path: Path) -> None:
    config = tiny(training__weight_decay=0.0625)  # runs out of memory there, however few images it takes at once
    folder = make_study(tmp_path / "study", toy, config, "tests.helpers.cheap_training:train")
    done = command("confirm", folder, "--top", "1", "--seeds", "3..4")
    assert done.exit_code == 1, (done.output, done.exception)
    content = confirmed(folder)
    assert content["leader"] is None
    assert content["optimism"] is None
    assert all("made to be too much" in setting["failure"] for setting in content["settings"])
    assert not list((folder / "confirm").glob("*/seed-4"))


def test_optimism_is_on_the_images_of_the_search_and_the_mean_on_all(toy: Path, tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study", toy, tiny(evaluation__max_val_images=3, training__learning_rate=3e-3))
    asked = ("confirm", folder, "--top", "1", "--seeds", "3")
    assert command(*asked).exit_code == 0
    run = folder / "confirm" / "0002" / "seed-3"
    plant(run, 0.6, 0)
    result = json.loads((run / "result.json").read_text())
    of_all = result["best"]["metrics"]["R@50"]
    result["best"]["metrics"]["R@50"] = 0.25
    (run / "result.json").write_text(json.dumps(result))
    assert command(*asked).exit_code == 0
    content = confirmed(folder)
    assert content["images"] > 3
    assert content["settings"][0]["mean"]["value"] == of_all != 0.25
    assert content["optimism"]["value"] == pytest.approx(0.9 - 0.25)


def test_seeds_are_ranges_and_lists() -> None:
    assert parse_seeds("3..7") == [3, 4, 5, 6, 7]
    assert parse_seeds("3,5, 9") == [3, 5, 9]
    assert parse_seeds("3..4,9") == [3, 4, 9]
    for text in ("", "7..3", "3,3", "2..4,3", "-1", "a", "3..", "1..2..3", "0..100000"):
        with pytest.raises(ConfigError, match="--seeds"):
            parse_seeds(text)


def test_what_cannot_be_confirmed_is_refused(copy: Path, tmp_path: Path) -> None:
    assert "runs backwards; write 3..7" in refusal("confirm", copy, "--seeds", "7..3")
    assert "--top 0: at least 1" in refusal("confirm", copy, "--seeds", "3", "--top", "0")
    assert "selected by its result with seed 0" in refusal("confirm", copy, "--seeds", "0..3")
    ledger = Ledger(copy / "ledger.jsonl")
    assert "a search is running on this folder" in refusal("confirm", copy, "--seeds", "3")
    ledger.close()
    with claimed(copy / "confirm"):
        assert "another speaq confirm is running" in refusal("confirm", copy, "--seeds", "3")
    file = copy / "study.yaml"
    text = file.read_text()
    digest = study_record.read(file).data_digest
    file.write_text(text.replace(digest, "0" * len(digest)))
    assert "was searched on other data (digest 000000000000" in refusal("confirm", copy, "--seeds", "3")
    file.write_text(text.replace("start_digest: null", "start_digest: abc"))
    assert "weights that its trials start from have changed" in refusal("confirm", copy, "--seeds", "3")
    file.write_text(text.replace("train: speaq.training.loop:train", "train: predictions:run"))
    assert "speaq metrics A --data D --against B" in refusal("confirm", copy, "--seeds", "3")
    file.write_text(text)
    (copy / "ledger.jsonl").unlink()
    assert "no trial has finished" in refusal("confirm", copy, "--seeds", "3")
    assert "study.yaml" in refusal("confirm", tmp_path / "none", "--seeds", "3")
