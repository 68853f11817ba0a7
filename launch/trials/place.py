"""Where a run trains: in the process that starts it, or on Ray workers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from launch.trials.functions import training_function
from speaq.config import Config
from speaq.study.file import TRAIN


def on_workers(config: Config) -> bool:
    """Whether a run trains on Ray workers rather than in the process that starts it: several, or one with GPUs.

    A config that asks for GPUs goes where Ray has them, never onto the CPU of whoever starts it.
    """
    return config.resources.num_workers > 1 or config.resources.gpus_per_worker > 0


def where_asked(config: Config, path: str = TRAIN) -> Callable[..., dict[str, Any]]:
    """The training function `path` as it runs where the config says: `on_workers`, or here. Raises ConfigError."""
    function = training_function(path)
    if not on_workers(config):
        return function
    from launch.trials.worker import train_distributed  # with Ray Train

    return functools.partial(train_distributed, train=path)
