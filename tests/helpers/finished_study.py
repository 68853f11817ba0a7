"""A search of real configs whose results are of our choice: something to confirm, without having searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch.jobs import tune as studies
from speaq import space as spaces
from speaq.config import Config
from speaq.study import creation
from speaq.study.file import TRAIN
from tests.helpers.fake_tune import Fake

SPACE = {
    "search": {"objective": ["R@50"], "scheduler": "none"},
    "parameters": {"training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
}


def make_study(folder: Path, toy: Path, config: Config, train: str = TRAIN, **search: Any) -> Path:
    """Four finished trials with recalls of our choice, and one that was stopped."""
    folder.mkdir()
    space = spaces.from_dict(SPACE).with_search(search)
    made = creation.create(config, space, toy, trials=5, train=train)
    studies.write(made, folder, None)
    tune = Fake(made.plan, folder)
    for value in (0.3, 0.1, 0.9, 0.2):
        tune.finish(tune.ask()[0], value, step=6)
    tune.prune(tune.ask()[0], 3, 0.95)
    tune.ledger.close()
    return folder
