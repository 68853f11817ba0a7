"""Clusters of several nodes that lose some, each in a process of its own: see tests/nodes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_training import assert_same_run, timeless

pytest.importorskip("ray")
pytest.importorskip("optuna")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


def program(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Without what this process's own clusters have left in its environment."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2700, check=False)


def test_a_short_soak_keeps_all_promises(tmp_path: Path) -> None:
    done = program("tests.soak", tmp_path / "soak", "--faults", "12", "--seconds", "120", "--every", "2")
    log = tmp_path / "soak" / "soak.log"
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:], log.read_text() if log.exists() else "")
    assert "trials lost 0 · trials repeated 0 · " in done.stdout
    assert "0 more than promised · mismatches 0 · " in done.stdout


def test_all_places_of_all_nodes_are_used_at_once_and_every_trial_ends_once(toy: Path, tmp_path: Path) -> None:
    done = program("tests.many_trials", tmp_path, toy, "--nodes", "4", "--cpus", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["met"], found["most"], found["ended"]) == (16, 16, {"finished": 20})
    assert found["attempts"] == [1] * 20
    refused, _, nodes = found["refusal"].partition("; the cluster's nodes have ")
    assert refused == "resources: one run needs 1 workers with 5 CPU each"
    assert sorted(nodes.split(", ")) == ["0 CPU 0 GPU", *["4 CPU 0 GPU"] * 4]


def test_runs_on_two_workers_survive_lost_workers_and_nodes(toy: Path, tmp_path: Path) -> None:
    done = program("tests.lost_nodes", tmp_path, toy)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lost"] == found["elastic"] == [4, 8, 12, 16, 20]  # no evaluation twice, none left out
    assert_same_run(tmp_path / "undisturbed", tmp_path / "disturbed")
    assert (found["workers"][:3], found["workers"][-1]) == ([2, 1, 1], 2)
    rates = [
        [(line["step"], line["train/learning_rate"]) for line in timeless(tmp_path / name) if "train/loss" in line]
        for name in ("undisturbed", "elastic")
    ]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 20
