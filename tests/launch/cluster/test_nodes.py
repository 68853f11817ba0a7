"""Clusters of several hosts that lose processes, networks and each other, in programs of their own (helpers/hosts.py).

Minutes each, so not part of `make test`: `make test TESTS="-m cluster"`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import hosts
from tests.helpers.same_run import assert_same_run, timeless
from tests.helpers.shared import ROOT
from tests.soak.study import DECAYS, INTERVAL, at_once

pytest.importorskip("ray")
pytest.importorskip("optuna")

TOGETHER = "nodes"  # starts nodes, see conftest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not hosts.possible(), reason="network namespaces need root and Linux"),
]


def program(module: str, *arguments: str | Path) -> str:
    """What it printed. Without what this process's own clusters have left in its environment."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def found(module: str, *arguments: str | Path) -> dict[str, Any]:
    """What it printed last, as JSON."""
    values: dict[str, Any] = json.loads(program(module, *arguments).splitlines()[-1])
    return values


def test_a_short_soak_keeps_all_promises(tmp_path: Path) -> None:
    said = program("tests.soak", tmp_path / "soak", "--faults", "16", "--seconds", "180", "--every", "2")
    assert "trials lost 0 · trials repeated 0 · " in said
    assert "0 more than promised · mismatches 0 · wrong weights 0 · ends without one line 0 · " in said
    assert not said.startswith("faults injected 0 ")


def test_all_places_of_all_hosts_are_used_at_once_and_every_trial_ends_once(toy: Path, tmp_path: Path) -> None:
    done = found("tests.helpers.many_trials", tmp_path, toy, "--nodes", "4", "--cpus", "4")
    assert (done["met"], done["most"], done["ended"]) == (16, 16, {"finished": 20})
    assert done["attempts"] == [1] * 20
    refused, _, nodes = done["refusal"].partition("; the cluster's nodes have ")
    assert refused == "resources: one run needs 1 workers with 5 CPU each"
    assert sorted(nodes.split(", ")) == ["0 CPU 0 GPU", *["4 CPU 0 GPU"] * 4]


def test_runs_on_two_workers_survive_lost_workers_and_hosts(toy: Path, tmp_path: Path) -> None:
    done = found("tests.helpers.lost_nodes", tmp_path, toy)
    assert done["lost"] == done["elastic"] == [4, 8, 12, 16, 20]  # no evaluation twice, none left out
    assert_same_run(tmp_path / "undisturbed", tmp_path / "disturbed")
    assert (done["workers"][:3], done["workers"][-1]) == ([2, 1, 1], 2)
    rates = [
        [(line["step"], line["train/learning_rate"]) for line in timeless(tmp_path / name) if "train/loss" in line]
        for name in ("undisturbed", "elastic")
    ]
    assert rates[0] == rates[1]
    assert len(rates[0]) == 20


def test_a_search_survives_a_network_that_is_cut_and_healed(tmp_path: Path) -> None:
    done = found("tests.helpers.cut_network", tmp_path)
    assert (done["code"], done["unclean"]) == (0, [])
    assert done["ended"] == ["finished"] * (len(DECAYS) + 2)
    assert done["cut off"] == 2
    assert len(done["again"]) == 1
    assert done["steps back"] <= INTERVAL
    alone = at_once(tmp_path / "study", tmp_path / "data", tmp_path / "at_once")
    assert done["metrics"] == {trial: found.metrics for trial, found in alone.items()}
