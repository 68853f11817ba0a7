"""`speaq cache` on Ray: on every worker that there is room for, one file of features after the other."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import ray

from launch.cluster import connection
from launch.cluster.sharing import nodes_that_share
from speaq.runs.cache import Caching, Maker, Part, Tell

log = logging.getLogger(__name__)

MAX_LOSSES = 3  # workers that may be lost while they make one and the same file
LOOK = 1.0  # seconds after which Ctrl-C is heard


class FeatureMaker:
    """Data and network in a process of the cluster."""

    def __init__(self, wanted: Caching) -> None:
        self._maker = Maker(wanted)

    def make(self, part: Part) -> int:
        """Writes a file; returns the number of its pictures."""
        self._maker.make(part, lambda number: None)
        return self._maker.pictures_of(part)


def make_on_ray(maker: Maker, parts: Sequence[Part], tell: Tell) -> None:
    """Writes files on the cluster, which this process is connected to while they are made.

    Raises:
        ClusterError: no node has room for a worker, not all see the same folders, or workers are lost again and again.
        DataError, OSError: as `Maker.make`.
    """
    wanted = maker.wanted
    one = wanted.config.resources.model_copy(update={"num_workers": 1, "min_workers": None})
    with connection.connected():
        connection.check_fits(one)
        nodes_that_share(wanted.output, None, wanted.data, wanted.config, all_of_them=True)
        number = min(len(parts), max(1, connection.places(one, free=True)))
        log.info("features are made on %d workers", number)
        actor: Any = ray.remote(num_cpus=one.cpus_per_worker, num_gpus=one.gpus_per_worker)(FeatureMaker)
        _Pool(lambda: actor.remote(wanted), number, deque(parts), tell).run()


class _Pool:
    """Workers, each with one file at a time."""

    def __init__(self, start: Any, number: int, waiting: deque[Part], tell: Tell) -> None:
        self._start, self._waiting, self._tell = start, waiting, tell
        self._losses: Counter[Part] = Counter()
        self._running: dict[Any, tuple[Any, Part]] = {}  # what a worker was asked → the worker and the file
        for _ in range(number):
            self._hand_out(start())

    def run(self) -> None:
        """Until all files are written; the workers end in any case."""
        try:
            while self._running:
                for asked in ray.wait(list(self._running), timeout=LOOK)[0]:
                    self._take(asked)
                self._tell(0)
        finally:
            for worker, _ in self._running.values():
                ray.kill(worker)

    def _hand_out(self, worker: Any) -> None:
        if self._waiting:
            part = self._waiting.popleft()
            self._running[worker.make.remote(part)] = worker, part

    def _take(self, asked: Any) -> None:
        worker, part = self._running.pop(asked)
        try:
            self._tell(ray.get(asked))
        except ray.exceptions.RayActorError as error:
            if isinstance(cause := error.__cause__, ray.exceptions.RayTaskError):  # it could not begin
                raise cause.cause from error
            self._losses[part] += 1
            if self._losses[part] > MAX_LOSSES:
                raise connection.ClusterError(f"a worker was lost {MAX_LOSSES + 1} times: {error}") from error
            log.warning("a worker was lost; another one makes %s %d again", *part)
            self._waiting.appendleft(part)
            worker = self._start()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        self._hand_out(worker)
