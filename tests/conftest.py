"""Settings of every test: no time limits on examples (machines differ), one thread (two cores are shared), Ray's
workers as important as the rest."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from speaq.data.toy.world import make_toy
from tests.helpers.browser import chromium as chromium
from tests.helpers.shared import AS_IMPORTANT, ROOT

settings.register_profile("speaq", deadline=None, max_examples=50)
settings.load_profile("speaq")
torch.set_num_threads(1)
os.environ |= AS_IMPORTANT

LONGEST = (  # begin first, so that none is left alone at the end
    *("ray", "ray_2", "nodes", "test_training", "test_bench", "test_export_model"),
    *("test_placement", "test_sudden_death", "test_golden", "test_gpu"),
)


@functools.cache
def scope_of(module: str) -> str:
    """Of `pytest -n 3`: one process runs a module's tests, for its fixtures, and those of all modules that say the same
    `TOGETHER = "…"`, since they share `ray_cluster` ("ray" and "ray_2" are halves of them) or start nodes.

    `module`: its path from the root.
    """
    said = re.search(r'^TOGETHER = "(\w+)"', (ROOT / module).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return Path(module).stem if said is None else said[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: [scope_of(item.nodeid.partition("::")[0]) != scope for scope in LONGEST])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """xdist's own groups (3.8.0) have no effect with pytest 9."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid.partition("::")[0])

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A report whose captured text holds names that are no UTF-8 would end a process of xdist, and with it the run."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _encodable(entry) for key, entry in value.items()}
    return type(value)(map(_encodable, value)) if isinstance(value, list | tuple) else value


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

    os.environ["PYTHONPATH"] = str(ROOT)  # workers import tests.helpers.cheap_training
    with connection.connected(dashboard=True):
        yield
