"""Where a run trains: in the process that starts it, or on Ray workers."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from speaq.config import Config, ConfigError
from speaq.study.file import TRAIN
from speaq.training.callbacks import Callbacks, Metrics

from ..store.claim import claimed
from .code import training_function
from .gpu import check_gpu


def on_workers(config: Config, *, placed: bool = False, own_gpu: bool = False) -> bool:
    """Whether a run trains on Ray's workers rather than in this process: here alone that is decided, for all commands.

    Several workers are Ray's. So is one with a GPU: it goes where Ray has one, never onto the CPU of whoever starts it.

    Args:
        placed: this process is a worker of Ray's, and holds what one worker takes.
        own_gpu: where RAY_ADDRESS names no cluster, a single worker's GPU is that of this machine, without Ray.

    Raises ConfigError where the GPU is to be this process's, and PyTorch sees none.
    """
    wanted = config.resources.gpus_per_worker
    if config.resources.num_workers > 1 or not wanted:
        return config.resources.num_workers > 1
    if placed or not own_gpu:
        return not placed
    if os.environ.get("RAY_ADDRESS"):
        return True
    if config.training.device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                f"resources.gpus_per_worker: {wanted:g} asked for, but PyTorch sees no CUDA device; set RAY_ADDRESS "
                "to a cluster that has one, or --set resources.gpus_per_worker=0 to train on the CPU"
            )
    return False


def several_at_once(config: Config, runs: int) -> bool:
    """Whether so many runs of a kind, which do not depend on each other, are Ray's to place.

    Runs that train on its workers are; others where there are several of them and Ray is installed.
    """
    return runs > 0 and (on_workers(config) or (runs > 1 and importlib.util.find_spec("ray") is not None))


def train_where_asked(
    config: Config, data: Path, output: Path, calls: Callbacks, *, train: str = TRAIN, **options: Any
) -> dict[str, Any]:
    """Trains where the config says: `on_workers`, or here. `options` are others of the training function `train`."""
    if on_workers(config):
        from .worker import train_distributed  # with Ray Train

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
    if placed and train == TRAIN and config.resources.num_workers == 1 and config.training.device != "cpu":
        check_gpu(config.resources)
    known: dict[str, Any] = {"force": True} if train == TRAIN else {}  # another training function may not know it
    if on_workers(config, placed=placed):
        from .worker import train_distributed

        return train_distributed(  # of a trial of Tune's, the search has looked at the nodes
            config, data, folder, calls, train=train, shared=placed, url=url, resume=True, **known
        )
    import ray

    from .telemetry import RunMetrics

    with claimed(folder) as claim:

        def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
            claim.check()
            calls.saved()  # a training function may not call it itself
            if calls.report is not None:
                calls.report(step, metrics, checkpoint)

        sinks = [RunMetrics(folder, config)] if ray.is_initialized() else []
        here = replace(calls, report=report, sinks=sinks)
        return training_function(train)(config, data, folder, resume=True, **vars(here), **known)
