"""A search space, a config and a data set that a real search on Ray goes through in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speaq import config as configs
from speaq import space as spaces
from speaq.config import Config
from speaq.data.toy.world import make_toy

CHEAP = "tests.helpers.cheap_training:train"


LONG = configs.apply(Config(), {"training.max_steps": 90, "training.eval_every": 10, "training.decay_steps": [50]})


RATE = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}


GROUPS = {"type": "int", "low": 1, "high": 6}


def make_space(**search: Any) -> spaces.Space:
    parameters = {"training.learning_rate": RATE, "matching.num_groups": GROUPS}
    return spaces.from_dict({"search": search, "parameters": parameters})


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "toy"
    make_toy(directory, 120, seed=0)
    return directory
