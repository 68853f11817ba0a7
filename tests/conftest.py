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

from speaq.data.toy.world import make_toy
from tests.browser import chromium as chromium
from tests.shared import ROOT

settings.register_profile("speaq", deadline=None, max_examples=50)
settings.load_profile("speaq")
torch.set_num_threads(1)
os.environ |= {"RAY_worker_niceness": "0"}  # Ray's default is 15: its tests would wait for those of the other process

# Of `pytest -n 3`: one process runs a module's tests, for its fixtures, and those of these modules together, since they
# share `ray_cluster` or start nodes.
TOGETHER = {
    **dict.fromkeys(
        ("test_calibrate", "test_costs", "test_docs", "test_earlier", "test_launch", "test_population"), "ray"
    ),
    **dict.fromkeys(("test_earlier", "test_readme", "test_real_data", "test_reproduction", "test_storage"), "ray"),
    "test_study": "ray",
    "test_folders": "ray",
    **dict.fromkeys(("test_clusters", "test_doctor", "test_jobs", "test_nodes", "test_remote"), "nodes"),
}
LONGEST = ("ray", "nodes", "test_bench", "test_export_model", "test_training")  # begin first


def scope_of(nodeid: str) -> str:
    module = Path(nodeid.partition("::")[0]).stem
    return TOGETHER.get(module, module)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: [scope_of(item.nodeid) != scope for scope in LONGEST])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """xdist's own groups (3.8.0) have no effect with pytest 9."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False
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
    from launch.cluster import connection

    os.environ["PYTHONPATH"] = str(ROOT)  # workers import tests.cheap_training
    with connection.connected(dashboard=True):
        yield
