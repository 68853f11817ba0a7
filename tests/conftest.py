"""Settings of every test: no time limits on examples (machines differ), one thread (two cores are shared), Ray's
workers as important as the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from speaq.data.toy import make_toy
from tests.browser import chromium as chromium

settings.register_profile("speaq", deadline=None, max_examples=50)
settings.load_profile("speaq")
torch.set_num_threads(1)
os.environ |= {"RAY_worker_niceness": "0"}  # Ray's default is 15: its tests would wait for those of the other process

# Modules that one process runs, one after the other: those that share `ray_cluster`, and those that start nodes.
TOGETHER = {
    "test_calibrate": "ray",
    "test_costs": "ray",
    "test_docs": "ray",
    "test_launch": "ray",
    "test_population": "ray",
    "test_readme": "ray",
    "test_real_data": "ray",
    "test_reproduction": "ray",
    "test_storage": "ray",
    "test_clusters": "nodes",
    "test_doctor": "nodes",
    "test_jobs": "nodes",
    "test_nodes": "nodes",
    "test_remote": "nodes",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of `pytest -n 3`. xdist's own groups (3.8.0) have no effect with pytest 9."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(Path(nodeid.partition("::")[0]).stem, nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy world, drawn once."""
    folder = tmp_path_factory.mktemp("toy") / "data"
    make_toy(folder, 60, seed=1)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A cluster of our own, started once: whatever searches or trains inside this process uses it from then on."""
    pytest.importorskip("ray")
    from launch import cluster

    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # workers import tests.cheap_training
    with cluster.connected(dashboard=True):
        yield
