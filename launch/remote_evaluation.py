"""An evaluation where the run's config says: on a worker of the cluster, since the head may have no GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ray

from launch import cluster
from speaq.config import ResourcesConfig
from speaq.data.records import SplitName
from speaq.training.run import RunEvaluation, evaluate_run

log = logging.getLogger(__name__)


def evaluate_remotely(run: Path, split: SplitName, data: Path, resources: ResourcesConfig) -> RunEvaluation:
    """What `evaluate_run` says of a run folder or checkpoint, computed on one worker with `resources`.

    Raises ClusterError where no node has room for one, and what `evaluate_run` raises.
    """
    one = resources.model_copy(update={"num_workers": 1, "min_workers": None})
    cluster.check_fits(one)
    log.info("evaluating %s on a worker", run.name)
    task: Any = ray.remote(num_cpus=one.cpus_per_worker, num_gpus=one.gpus_per_worker)(evaluate_run)
    try:
        result: RunEvaluation = ray.get(task.remote(run.resolve(), split, data.resolve()))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return result
