"""Settings of every test: no time limits on examples (machines differ), one thread (two cores are shared)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from speaq.data.toy import make_toy

settings.register_profile("speaq", deadline=None, max_examples=50)
settings.load_profile("speaq")
torch.set_num_threads(1)

# Modules that start Ray: two clusters on one machine would fight over ports, so one process runs them all.
WITH_RAY = ("test_jobs", "test_launch", "test_readme", "test_real_data", "test_reproduction")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in WITH_RAY:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy world, drawn once."""
    folder = tmp_path_factory.mktemp("toy") / "data"
    make_toy(folder, 60, seed=1)
    return folder
