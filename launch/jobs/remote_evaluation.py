"""An evaluation where the run's config says: on a worker of the cluster, since the head may have no GPU."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import ray

from launch.cluster import connection
from speaq.config import ResourcesConfig
from speaq.data.records import SplitName
from speaq.runs.run import RunEvaluation, evaluate_run

log = logging.getLogger(__name__)

ROOM = 600.0  # seconds


def evaluate_remotely(
    run: Path, split: SplitName, data: Path, resources: ResourcesConfig, *, room: float = ROOM
) -> RunEvaluation:
    """What `evaluate_run` says of a run folder or checkpoint, computed on one worker with `resources`.

    Args:
        room: seconds in which a worker must become free.

    Raises ClusterError where no node has room for one, or none becomes free in time, and what `evaluate_run` raises.
    """
    one = resources.model_copy(update={"num_workers": 1, "min_workers": None})
    connection.check_fits(one)
    _wait_for_room(one, room)
    log.info("evaluating %s on a worker", run.name)
    task: Any = ray.remote(num_cpus=one.cpus_per_worker, num_gpus=one.gpus_per_worker)(evaluate_run)
    try:
        result: RunEvaluation = ray.get(task.remote(run.resolve(), split, data.resolve()))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return result


def _wait_for_room(one: ResourcesConfig, limit: float) -> None:
    deadline = time.monotonic() + limit
    while not connection.places(one, free=True):
        if time.monotonic() > deadline:
            raise connection.ClusterError(
                f"resources: no worker with {connection.wanted(one)} became free within {limit:g} s; give the same "
                "command again when the cluster has room"
            )
        time.sleep(connection.LOOK)
