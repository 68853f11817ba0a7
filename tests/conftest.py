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


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small toy world, drawn once."""
    folder = tmp_path_factory.mktemp("toy") / "data"
    make_toy(folder, 60, seed=1)
    return folder
