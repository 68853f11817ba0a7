"""Evaluations where the runs' config says: on workers of the cluster, since the head may have no GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from speaq.config import ResourcesConfig
from speaq.data.records import SplitName
from speaq.runs.run import RunEvaluation, evaluate_run
from speaq.training.callbacks import Progress, Progresses, no_progresses

from ..cluster import connection
from ..trials.gpu import check_gpu
from .queue import ROOM, Job, Queue

log = logging.getLogger(__name__)


def evaluate_remotely(
    run: Path, split: SplitName, data: Path, resources: ResourcesConfig, *, room: float = ROOM
) -> RunEvaluation:
    """What `evaluate_run` says of a run folder or checkpoint, computed on one worker with `resources`.

    Raises as `evaluate_all`.
    """
    found: list[RunEvaluation] = []
    log.info("evaluating %s on a worker", run.name)
    evaluate_all(
        {run.name: run},
        split,
        data,
        resources,
        ended=lambda name, evaluation: found.append(evaluation),
        progress=no_progresses,
        room=room,
    )
    return found[0]


def evaluate_all(
    runs: Mapping[str, Path],
    split: SplitName,
    data: Path,
    resources: ResourcesConfig,
    *,
    ended: Callable[[str, RunEvaluation], None],
    progress: Progresses,
    room: float = ROOM,
) -> None:
    """What `evaluate_run` says of run folders or checkpoints, each on a worker with `resources`, many at once.

    Args:
        runs: by the names under which they are shown.
        ended: gets each name and evaluation, as they end.
        progress: shows each while it is at work.
        room: seconds in which a worker must become free.

    Raises ClusterError where no node has room for one, or none becomes free in time, and what `evaluate_run` raises.
    """
    one = resources.model_copy(update={"num_workers": 1, "min_workers": None})
    connection.check_fits(one)
    arguments = {name: (run.resolve(), split, data.resolve(), one) for name, run in runs.items()}

    def take(job: Job, outcome: RunEvaluation | Exception) -> None:
        if isinstance(outcome, Exception):
            raise outcome
        ended(job.name, outcome)

    Queue(one, progress, room=room).run([Job(name, _evaluate, given) for name, given in arguments.items()], take)


def _evaluate(run: Path, split: SplitName, data: Path, resources: ResourcesConfig, tell: Progress) -> RunEvaluation:
    check_gpu(resources)
    return evaluate_run(run, split, data, progress=tell)
