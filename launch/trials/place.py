"""Where a run trains: in the process that starts it, or on Ray workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.store.claim import claimed
from launch.trials.code import training_function
from speaq.config import Config
from speaq.study.file import TRAIN
from speaq.training.callbacks import Callbacks, Metrics


def on_workers(config: Config) -> bool:
    """Whether a run trains on Ray workers rather than in the process that starts it: several, or one with GPUs.

    A config that asks for GPUs goes where Ray has them, never onto the CPU of whoever starts it.
    """
    return config.resources.num_workers > 1 or config.resources.gpus_per_worker > 0


def train_where_asked(
    config: Config, data: Path, output: Path, calls: Callbacks, *, train: str = TRAIN, **options: Any
) -> dict[str, Any]:
    """Trains where the config says: `on_workers`, or here. `options` are others of the training function `train`."""
    if on_workers(config):
        from launch.trials.worker import train_distributed  # with Ray Train

        return train_distributed(config, data, output, calls, train=train, **options)
    return training_function(train)(config, data, output, **vars(calls), **options)


def train_trial(
    config: Config,
    data: Path,
    folder: Path,
    calls: Callbacks,
    *,
    train: str = TRAIN,
    placed: bool = False,
    url: str | None = None,
) -> dict[str, Any]:
    """Trains a run of a study, whose data the study has judged. A run found in `folder` goes on. Raises as `claimed`.

    Args:
        calls: with workers of its own, `saved` is called at evaluations alone, `interrupted` not at all.
        placed: this process holds what one worker takes, GPUs included, as a trial of Tune does.
        url: that `folder` is a copy of, which this process keeps in step.
    """
    known: dict[str, Any] = {"force": True} if train == TRAIN else {}  # another training function may not know it
    if config.resources.num_workers > 1 or (on_workers(config) and not placed):
        from launch.trials.worker import train_distributed

        return train_distributed(  # of a trial of Tune's, the search has looked at the nodes
            config, data, folder, calls, train=train, shared=placed, url=url, resume=True, **known
        )
    import ray

    from launch.trials.telemetry import RunMetrics

    with claimed(folder) as claim:

        def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
            claim.check()
            calls.saved()  # a training function may not call it itself
            if calls.report is not None:
                calls.report(step, metrics, checkpoint)

        sinks = [RunMetrics(folder, config)] if ray.is_initialized() else []
        here = replace(calls, report=report, sinks=sinks)
        return training_function(train)(config, data, folder, resume=True, **vars(here), **known)
