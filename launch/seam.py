"""Between the library and Ray: the training function, and what a trial sends to Tune. Light to import."""

from __future__ import annotations

import functools
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeGuard

from speaq.config import Config, ConfigError

TRAIN = "speaq.training.loop:train"
Metrics = Mapping[str, float | None]
Report = Callable[[int, Metrics, Path], None]  # step, metrics, last checkpoint
Progress = Callable[[int, int, str], None]  # done, total, text
Progresses = Callable[[str], AbstractContextManager[Progress]]  # title → how far it is


def training_function(path: str) -> Callable[..., dict[str, Any]]:
    """`module:name` → the function. Raises ConfigError for code that is not ours: the path is read from files."""
    if not re.fullmatch(r"(speaq|launch|tests)(\.\w+)+:\w+", path):
        raise ConfigError(f"train: {path!r} is no training function of speaq")
    module, _, name = path.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), name)
    return function


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
    from launch.worker import train_distributed

    return functools.partial(train_distributed, train=path)


def trial_result(step: int, metrics: Metrics, value: float | None, seconds: float) -> dict[str, Any]:
    """What a trial sends to Tune at an evaluation: plain values at the top, everything else as text."""
    report = {"step": step, "metrics": plain(metrics), "seconds": seconds}
    return {"step": step, "value": math.nan if value is None else value, "report": json.dumps(report)}


def plain(metrics: Metrics) -> dict[str, float | None]:
    """Metrics that JSON can hold: what is not a number is None."""
    return {name: value if is_number(value) else None for name, value in metrics.items()}


def final_result(last: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial sends at its end: its last evaluation and how it ended."""
    if "metrics" in outcome:
        outcome = {**outcome, "metrics": plain(outcome["metrics"])}
    return {"step": 0, "value": math.nan, **last, "outcome": json.dumps(outcome), "done": True}


def is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
