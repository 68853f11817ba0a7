"""Jobs that do not depend on each other, on Ray's workers: as many at once as the cluster has room for.

A job is a Ray task that holds what one run takes; the driver of a run of several workers holds nothing beside the
process that queues it. What a job has done lies in its folder, so that one whose worker dies, or whose node is lost, is
tried again and goes on from there. In which order jobs end is told, and decides nothing here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from speaq.config import ResourcesConfig
from speaq.data import LoaderDied
from speaq.files.home import make_up_home
from speaq.files.locks import Busy, Taken
from speaq.study.errors import last_line
from speaq.training.callbacks import Progress, Progresses, nothing
from speaq.training.endings import Interrupted

from ..cluster import connection
from ..cluster.interrupts import Interrupts
from ..search.deaths import MAX_DEATHS, Deaths
from ..trials.notices import Notices, teller

log = logging.getLogger(__name__)

ROOM = 600.0  # seconds in which a worker must become free, where no job is at work
ENDING = 60.0  # seconds that jobs are given to write a checkpoint when the queue ends
LOOK = 0.5  # seconds between looks at the jobs
BEAT = 10.0  # seconds between what is done meanwhile


class JobDied(RuntimeError):
    """The worker of a job died again and again, without the job having got on."""


@dataclass(frozen=True)
class Job:
    """Something to be done on a worker."""

    name: str  # as the user knows it; each is another one
    function: Callable[..., Any]  # of a module that workers import; gets `arguments` and a Progress
    arguments: tuple[Any, ...]
    checkpoint: Callable[[], object] = nothing  # what tells its last checkpoint from those before


@dataclass
class _Attempt:
    job: Job
    number: int
    nodes: frozenset[str] | None  # that it may be placed on
    tell: Progress
    closing: contextlib.ExitStack  # of what shows it
    begun: bool = False
    withdrawn: bool = False  # to be placed again


class Queue:
    """Does jobs on workers with `resources` each, or as the drivers of runs of several workers."""

    def __init__(
        self,
        resources: ResourcesConfig,
        progress: Progresses,
        nodes: Callable[[], Collection[str] | None] = lambda: None,
        *,
        beat: Callable[[], None] = nothing,
        room: float = ROOM,
    ) -> None:
        """
        Args:
            progress: shows a job while it is at work.
            nodes: ids of the nodes that may get jobs now; None: all.
            beat: called now and then while jobs are at work, and after each.
            room: seconds in which a worker must become free, where no job is at work.
        """
        self._resources, self._progress, self._nodes, self._beat, self._room = resources, progress, nodes, beat, room
        self._places = connection.Places(lambda: resources, nodes)
        self._waiting: list[Job] = []
        self._running: dict[Any, _Attempt] = {}  # by Ray's reference
        self._number = 0
        self._since = self._beaten = time.monotonic()

    def run(self, jobs: Sequence[Job], ended: Callable[[Job, Any], None]) -> None:
        """Does all of them; `ended` gets each job with its value, or the exception that it ended with, as they end.

        Raises:
            ClusterError: no worker became free in time.
            KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP. Then, as where `ended` raises, those at work first write a
                checkpoint.
        """
        self._waiting = list(jobs)
        deaths = Deaths({job.name: job.checkpoint for job in jobs}.__getitem__)
        with _notices() as notices, Interrupts() as interrupts:
            try:
                while self._waiting or self._running:
                    interrupts.on_step_begin(0, [])
                    self._start(notices)
                    for attempt, outcome in self._look():
                        self._take(attempt, outcome, deaths, ended)
                    self._show(notices)
            except BaseException:
                self._stop()
                raise

    def _start(self, notices: Any) -> None:
        """Hands out as many as there are places for. One that no node wants any more is taken back first."""
        nodes = self._nodes()
        among = None if nodes is None else frozenset(nodes)
        for reference, attempt in self._running.items():
            if not attempt.begun and attempt.nodes != among and not attempt.withdrawn:
                attempt.withdrawn = True
                ray.cancel(reference)
        while self._waiting and len(self._running) < self._places():
            job = self._waiting.pop(0)
            self._number += 1
            closing = contextlib.ExitStack()
            tell = closing.enter_context(self._progress(job.name))
            task: Any = ray.remote(_work).options(name=job.name, max_retries=0, **self._placement(among))
            reference = task.remote(job.function, job.arguments, notices, self._number)
            self._running[reference] = _Attempt(job, self._number, among, tell, closing)

    def _placement(self, nodes: frozenset[str] | None) -> dict[str, Any]:
        """Where a job may be, and what it holds there."""
        if self._resources.num_workers > 1:  # it only waits for its workers
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            return {"num_cpus": 0, "scheduling_strategy": here}
        label = {} if nodes is None else {"label_selector": {"ray.io/node-id": f"in({','.join(sorted(nodes))})"}}
        return {"num_cpus": self._resources.cpus_per_worker, "num_gpus": self._resources.gpus_per_worker, **label}

    def _look(self) -> Iterator[tuple[_Attempt, Any]]:
        """Waits a moment; gives those that have ended, with their value or exception."""
        if not self._running:
            time.sleep(LOOK)
            return
        done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=LOOK)
        for reference in done:
            attempt = self._running.pop(reference)
            attempt.closing.close()
            yield attempt, _outcome(reference)

    def _take(self, attempt: _Attempt, outcome: Any, deaths: Deaths, ended: Callable[[Job, Any], None]) -> None:
        job = attempt.job
        if not _has_died(outcome):
            ended(job, outcome)
            self._beat()
        elif attempt.withdrawn:
            self._waiting.insert(0, job)
        elif deaths.count(job.name) > MAX_DEATHS:
            ended(job, JobDied(f"its worker died {MAX_DEATHS + 1} times ({_cause(outcome)})"))
        else:
            log.warning("%s: its worker died (%s); it is tried again", job.name, _cause(outcome))
            self._waiting.append(job)

    def _show(self, notices: Any) -> None:
        """Shows how far those at work are. Raises ClusterError where none is, and none could begin for too long."""
        with contextlib.suppress(ray.exceptions.RayError):  # it is started again, and told again
            told = ray.get(notices.told.remote(), timeout=ENDING)
            for attempt in self._running.values():
                if attempt.number in told:
                    attempt.begun = True
                    if (notice := told[attempt.number]) is not None:
                        attempt.tell(*notice)
        now = time.monotonic()
        if any(attempt.begun for attempt in self._running.values()):
            self._since = now
            if now - self._beaten > BEAT:
                self._beat()
                self._beaten = time.monotonic()
        elif now - self._since > self._room:
            raise connection.ClusterError(
                f"resources: no worker with {connection.wanted(self._resources)} became free within {self._room:g} s; "
                "give the same command again when the cluster has room"
            )

    def _stop(self) -> None:
        """Ends those at work, which write a checkpoint first."""
        if any(attempt.begun for attempt in self._running.values()):
            log.warning("%d at work write a checkpoint first; again: at once", len(self._running))
        for reference, attempt in self._running.items():
            attempt.closing.close()
            ray.cancel(reference)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=ENDING)
        self._running, self._waiting = {}, []


def _work(function: Callable[..., Any], arguments: tuple[Any, ...], notices: Any, attempt: int) -> Any:
    """What a worker does."""
    make_up_home()  # of a node's own user
    notices.tell.remote(attempt, None)
    return function(*arguments, teller(notices, attempt))


@contextlib.contextmanager
def _notices() -> Iterator[Any]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Notices)
    notices = actor.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
    try:
        yield notices
    finally:
        ray.kill(notices)


def _outcome(reference: Any) -> Any:
    """The value of a job that has ended, or the exception that it ended with: its own, or one of Ray's."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause: Exception = error.cause
        cause.__cause__ = error  # with the worker's traceback
        return cause
    except ray.exceptions.RayError as error:
        return error


def _has_died(outcome: Any) -> bool:
    """Whether the worker is at fault: killed, ended with its node, in a folder that an earlier attempt still has."""
    return isinstance(outcome, ray.exceptions.RayError | Interrupted | LoaderDied | Busy | Taken)


def _cause(outcome: Exception) -> str:
    """What a worker has died of, where somebody knows."""
    if isinstance(outcome, ray.exceptions.WorkerCrashedError | ray.exceptions.NodeDiedError):
        return "killed, out of memory, or its node was lost"
    return last_line(outcome)[:300]
