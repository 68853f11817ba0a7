"""Runs and studies that an earlier version wrote (tests/earlier) open, are used and go on as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from speaq import config as configs
from speaq.prediction.predictor import Predictor
from speaq.runs.run import evaluate_run
from speaq.training.loop import train
from tests.helpers.command import command
from tests.helpers.shared import EARLIER

TOGETHER = "ray_2"  # shares `ray_cluster`, see conftest


@pytest.fixture
def project(tmp_path: Path, toy: Path) -> Path:
    """What was written, at another place than it names."""
    shutil.copytree(EARLIER, tmp_path / "project")
    (tmp_path / "project" / "data").symlink_to(toy)
    return tmp_path / "project"


def test_a_run_is_evaluated(project: Path) -> None:
    result = evaluate_run(project / "run", data=project / "data")
    then = json.loads((project / "run" / "result.json").read_text())
    assert result.step == then["best"]["step"] == 60
    assert result.evaluation.metrics == pytest.approx(then["best"]["metrics"], nan_ok=True)


def test_a_run_predicts_what_it_did(project: Path) -> None:
    predictor = Predictor.load(project / "run", device="cpu")
    graph = predictor.predict(project / "data" / "VG_100K" / "100001.jpg", top=3)
    assert [thing.label for thing in graph.things] == ["car", "lamp", "ring"]
    assert [thing.score for thing in graph.things] == pytest.approx([0.105214, 0.080343, 0.078997], abs=1e-4)
    first = graph.triplets[0]
    assert (first.predicate, first.score) == ("near", pytest.approx(0.002024, abs=1e-5))


def test_a_run_goes_on_with_the_loss_it_had(project: Path) -> None:
    run = project / "run"
    config = configs.load(run / "config.yaml", ["training.max_steps=140"])
    train(config, project / "data", run, resume=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert losses[120] == 42.40513610839844
    assert losses[140] == pytest.approx(43.28178405761719, rel=1e-3)  # as that version went on


def test_a_study_is_shown(project: Path) -> None:
    rows = json.loads(command("status", project / "study", "--json").stdout)["trials"]
    assert [(row["trial"], row["state"]) for row in rows] == [(f"{number:04}", "finished") for number in range(4)]
    command("export", project / "study", project / "trials.csv")
    assert (project / "trials.csv").read_text().count("\n") == 5
    command("report", project / "study")
    assert (project / "study" / "report.html").exists()


def test_a_study_goes_on(project: Path, ray_cluster: None) -> None:
    from launch.jobs import tune

    entries = tune.resume(project / "study", trials=5, force=True)  # its code was another, data and start have moved
    assert [entry.state for entry in entries] == ["finished"] * 5
    assert [entry.attempts for entry in entries] == [1] * 5  # none was trained again
    assert len({entry.digest for entry in entries}) == 5
