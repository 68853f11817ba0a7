"""Runs that do not depend on each other: at once, each where its config says, and gone on with whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from speaq import config as configs
from speaq.training import checkpoint
from speaq.training.loop import train
from tests.helpers.same_run import assert_same_run, timeless
from tests.helpers.shared import ROOT
from tests.helpers.tiny import tiny

pytest.importorskip("ray")
pytest.importorskip("optuna")

from tests.helpers.command import command
from tests.helpers.finished_study import make_study

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def study(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny(resources__gpus_per_worker=1.0)
    return make_study(tmp_path_factory.mktemp("study") / "study", toy, config, "tests.helpers.invented_gpus:train")


@pytest.fixture(scope="module")
def said(study: Path, toy: Path) -> dict[str, Any]:
    """What happened on a cluster with a head without a GPU and a node with two invented ones."""
    line = [sys.executable, "-m", "tests.helpers.invented_gpus", str(study), str(toy)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((study / "said.json").read_text())
    return found


def rows(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jobs_run_at_once_on_a_gpu_each_and_never_on_a_head_without_one(study: Path, said: dict[str, Any]) -> None:
    places = rows(study / "jobs.jsonl")
    assert {row["gpu"] for row in places if row["name"].startswith("together")} == {
        "0",
        "1",
    }
    assert said["head"] not in {row["node"] for row in places}
    assert len({row["node"] for row in places if row["name"] != "stays"}) == 1


def test_a_job_whose_worker_dies_is_tried_again_three_times_in_all(study: Path, said: dict[str, Any]) -> None:
    tried = Counter(row["name"] for row in rows(study / "jobs.jsonl"))
    assert (tried["dies once"], tried["dies"], tried["fails"], tried["together 1"]) == (2, 3, 1, 1)
    assert said["queue"] == {
        "together 1": "str: together 1 done",
        "together 2": "str: together 2 done",
        "fails": "ArithmeticError: made to fail",
        "dies": "JobDied: its worker died 3 times (killed, out of memory, or its node was lost)",
        "dies once": "str: dies once done",
    }


def test_a_job_whose_node_is_lost_goes_on_on_another(study: Path, said: dict[str, Any]) -> None:
    assert said["lost"] == "done"
    first, second = (row["node"] for row in rows(study / "jobs.jsonl") if row["name"] == "stays")
    assert len({first, second, said["head"]}) == 3


def test_the_runs_of_a_round_are_confirmed_at_once_as_one_after_the_other(
    study: Path, said: dict[str, Any], toy: Path, tmp_path: Path
) -> None:
    places = rows(study / "confirm" / "places.jsonl")
    assert said["head"] not in {row["node"] for row in places}
    for seed in ("seed-3", "seed-4"):
        assert {row["gpu"] for row in places if row["name"].endswith(seed)} == {"0", "1"}
    killed = Counter(row["name"] for row in places)
    assert killed == {"0000 seed-3": 2, "0002 seed-3": 1, "0000 seed-4": 1, "0002 seed-4": 1}
    assert [list(setting["seeds"]) for setting in said["confirm"]["settings"]] == [["3", "4"]] * 2
    for trial in ("0000", "0002"):
        run = study / "confirm" / trial / "seed-3"
        assert (run / "images.npz").exists()
        alone = tmp_path / trial
        train(configs.load(run / "config.yaml"), toy, alone, device=torch.device("cpu"))
        assert_same_run(alone, run)


def test_trials_share_a_gpu_once_the_first_has_told_its_memory(study: Path, said: dict[str, Any]) -> None:
    folder = study.parent / "search"
    places = rows(folder / "places.jsonl")
    assert said["head"] not in {row["node"] for row in places}
    assert [name for name, _ in said["search"].items()] == [f"000{number}" for number in range(7)]
    assert {state for state, _, _ in said["search"].values()} == {"finished"}
    held = {name: [row["share"]["GPU"] for row in places if row["name"] == name] for name in said["search"]}
    assert held["0000"] == held["0001"] == [1.0]  # they begin before anything is known
    assert [held[name] for name in ("0002", "0003", "0005", "0006")] == [[0.5]] * 4
    assert held["0004"] == [0.5, 1.0]  # what finds the memory of a shared GPU too small gets one of its own
    told = rows(folder / "ledger.jsonl")
    shares = [row.get("gpu_share", 1.0) for row in told if row["event"] == "running" and row["trial"] == "0004"]
    assert shares == [0.5, 1.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is invented: Ray's workers must not find one")
def test_ctrl_c_lets_every_run_of_a_queue_write_a_checkpoint_first(toy: Path, tmp_path: Path) -> None:
    steps: dict[str, Any] = {"max_steps": 80, "eval_every": 80, "decay_steps": [79], "log_every": 1}
    folder = make_study(tmp_path / "study", toy, tiny(**{f"training__{name}": value for name, value in steps.items()}))
    line = [sys.executable, "-m", "speaq.cli", "confirm", str(folder), "--top", "1", "--seeds", "5"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True)
    runs = [folder / "confirm" / trial / "seed-5" for trial in ("0000", "0002")]
    while not all((run / "metrics.jsonl").exists() and len(timeless(run)) > 2 for run in runs):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "2 at work write a checkpoint first" in errors
    stopped = {run: checkpoint.load(run / "checkpoints" / "last.pt")["step"] for run in runs}
    for run, step in stopped.items():
        assert 2 < step < 80
        assert timeless(run)[-1]["step"] == step  # no step is lost
    done = command("confirm", folder, "--top", "1", "--seeds", "5")
    assert done.exit_code == 0, (done.output, done.exception)
    for run in runs:
        assert [line["step"] for line in timeless(run) if "train/loss" in line] == list(range(1, 81))
