"""One training run on several workers: the same loop inside Ray Train, with the same files and the same result.

A relay (a tiny actor) carries what rank 0 reports to whoever started the run, and the answer "go on", "stop" or "again"
back to all ranks. So a run that is to be stopped ends on its own: no worker trains on, no placement group is left
behind. A run whose workers were lost starts again from its checkpoint, with as many as there is room for
(`launch.trials.elastic`).
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, assert_never

import ray
import ray.train
import ray.train.torch
from ray.train.v2.api.config import FailureConfig  # ray.train's, with the types of V2
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from speaq import config as configs
from speaq.config import Config, ConfigError, ResourcesConfig
from speaq.files.locks import ORPHANS, Gone, Lock
from speaq.study import creation
from speaq.study.errors import Halted, StorageLost, is_of_storage, last_line
from speaq.study.file import TRAIN
from speaq.training import distributed, folder, origins
from speaq.training.callbacks import Callbacks, Metrics, Progress
from speaq.training.endings import DivergedError, Interrupted, OutOfMemory, StopTraining
from speaq.training.environment import source_digest
from speaq.training.folder import own_folder

from ..cluster import connection, sharing
from ..store.claim import claimed
from . import elastic
from .code import check_code, training_function
from .gpu import check_gpu
from .logs import WORKER_LOG, log_to
from .notices import now_and_then
from .relay import Answer, Broken, Ending, Fault, Relay, Trained
from .telemetry import RunMetrics

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # times that a run loses workers without having got to an evaluation in between
DRIVER = ".driver"  # lock of whoever started the workers; the first of them has the folder's own
START_TIMEOUT = 180.0  # seconds for all workers to start


class WorkersError(RuntimeError):
    """A run on several workers that could not be finished."""


FAILURES: Mapping[Fault, type[Exception]] = {
    "user": ConfigError,
    "run": WorkersError,
    "memory": OutOfMemory,
    "diverged": DivergedError,
    "storage": StorageLost,
    "code": Halted,
}


def train_distributed(
    config: Config,
    data: Path,
    output: Path,
    calls: Callbacks = Callbacks(),
    *,
    task: Literal["speaq", "detector"] = "speaq",
    resume: bool = False,
    train: str = TRAIN,
    shared: bool = False,
    force: bool = False,
    url: str | None = None,
) -> dict[str, Any]:
    """Trains on `resources.num_workers` Ray Train workers; arguments, files and result are those of `train`.

    Args:
        calls: `saved` is called here at each evaluation, before `report`; `sinks` and `interrupted` are not used.
        shared: all nodes are known to share output and data.
        url: that `output` is a copy of.

    Raises:
        ConfigError, DataError: what the user gave cannot be used.
        WorkersError: the workers did not start, or were lost too often.
        OutOfMemory: a device's memory is too small.
        DivergedError: outputs or a loss that are not finite.
        Busy: another process trains in `output`.
        Halted: a node has other code.
        StorageLost: the storage of the run is full, read-only or away.
    """
    output, data = output.resolve(), data.resolve()
    begins = not (resume and folder.has_checkpoint(output))
    config = _located(config, output, resume=resume, begins=begins)
    job = {"data": str(data), "output": str(output), "task": task, "resume": resume, "train": train, "force": force}
    job["source"] = source_digest()
    with own_folder(output, DRIVER), connection.connected(dashboard=True):
        Lock(output, ORPHANS).close()  # not while another run, or a worker that outlived its driver, writes there
        connection.check_fits(config.resources)
        if not shared:
            known = config if begins else origins.without_start(config)
            sharing.nodes_that_share(output, url, data, known, all_of_them=True)
        return _fit(job, config, calls)


def _located(config: Config, output: Path, *, resume: bool, begins: bool) -> Config:
    """The config with absolute paths, which all workers can follow. Raises ConfigError where `output` is in use."""
    if not resume and (output / "config.yaml").exists():
        raise ConfigError(f"{output}: holds a run already; give another --output, or --resume to go on with it")
    return creation.with_absolute_paths(origins.placed(config, output) if resume else config, needed=begins)


def _fit(job: dict[str, Any], config: Config, calls: Callbacks) -> dict[str, Any]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Relay)
    relay = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    output = Path(job["output"])
    carrier = _Carrier(relay, config, calls, output / "checkpoints" / "last.pt")
    try:
        ending = _attempts({**job, "relay": relay}, config, carrier)
    finally:
        ray.kill(relay)
        _remove_traces(output)
    match ending:
        case Trained(result):
            return result
        case Broken(fault, message):
            raise FAILURES[fault](message)
        case _:
            assert_never(ending)


def _attempts(job: dict[str, Any], config: Config, carrier: _Carrier) -> Ending:
    """Starts workers until the run has ended, and returns how. Raises WorkersError where they are lost too often."""
    output, failures = Path(job["output"]), 0
    while True:
        number = elastic.number_to_start(config)
        if number < config.resources.num_workers:
            log.warning("room for %d of %d workers", number, config.resources.num_workers)
        _remove_traces(output)
        trainer = _trainer({**job, "config": configs.to_dict(elastic.with_same_parts(config, number))}, number, config)
        error, got_on = carrier.run(trainer, number)
        job = {**job, "resume": True}  # whatever comes next
        ending: Ending | None = ray.get(job["relay"].ending.remote())
        if ending is not None:
            return ending
        if error is None:  # asked to, at an evaluation
            continue
        failures = 1 if got_on else failures + 1
        reason = f"the workers failed: {last_line(error)[:300]}"
        if failures > MAX_FAILURES:
            raise WorkersError(reason) from error
        log.warning("%s; starting again", reason)


class _Carrier:
    """Carries what the workers report to whoever started the run, and the answers back."""

    def __init__(self, relay: Any, config: Config, calls: Callbacks, last: Path) -> None:
        self._relay, self._config, self._calls, self._last = relay, config, calls, last
        self._number = self._step = 0  # of the last report; of those told
        self._stop = False

    def run(self, trainer: ray.train.torch.TorchTrainer, workers: int) -> tuple[BaseException | None, bool]:
        """Until the workers have ended: (what they failed of, whether they got to an evaluation)."""
        before = self._step
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        try:
            run = pool.submit(trainer.fit)  # in a thread of its own: this one carries reports
            while not run.done():
                self._carry(workers)
        finally:
            pool.shutdown(wait=False)
        return run.exception(), self._step > before

    def _carry(self, workers: int) -> None:
        offer = ray.get(self._relay.take.remote(self._number))
        if (shown := ray.get(self._relay.progress.remote())) is not None:
            self._calls.progress(*shown)
        if offer is None:
            return
        self._number, step, metrics = offer
        ray.get(self._relay.answer.remote(self._number, self._answer(step, metrics, workers)))

    def _answer(self, step: int, metrics: Metrics, workers: int) -> Answer:
        if step <= self._step:  # workers that start again tell their last evaluation again
            return "stop" if self._stop else "go on"
        self._step = step
        try:
            self._calls.saved()
            if self._calls.report is not None:
                self._calls.report(step, metrics, self._last)
        except StopTraining:
            self._stop = True
            return "stop"
        if step < self._config.training.max_steps and elastic.can_grow(self._config, workers):
            log.info("step %d: there is room for more than %d workers", step, workers)
            return "again"
        return "go on"


def _remove_traces(output: Path) -> None:
    """Ray's own notes about a run, from which it would resume: we resume from our checkpoint, which is verified."""
    for name in ("checkpoint_manager_snapshot.json", ".validate_storage_marker"):
        (output / name).unlink(missing_ok=True)


def _trainer(job: dict[str, Any], number: int, config: Config) -> ray.train.torch.TorchTrainer:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT))
    resources, output = config.resources, Path(job["output"])
    scaling = ray.train.ScalingConfig(
        num_workers=number,
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker=connection.worker_resources(resources),
    )
    run = ray.train.RunConfig(
        name=output.name,  # the run folder is Ray's too: checkpoints are reported where they lie
        storage_path=str(output.parent),
        failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # starting again is `_attempts`'
    )
    group = ray.train.torch.TorchConfig(backend="gloo" if number == 1 else None)  # one alone sends nothing to others
    return ray.train.torch.TorchTrainer(
        work, train_loop_config=job, scaling_config=scaling, run_config=run, torch_config=group
    )


def work(job: dict[str, Any]) -> None:
    """What every worker runs."""
    relay = job["relay"]
    main = distributed.world()[0] == 0
    try:
        check_code(job["source"], "run")
        output = Path(job["output"])
        with (
            log_to(output / WORKER_LOG) if main else _failing_to(output / WORKER_LOG) as steps,
            claimed(output) if main else contextlib.nullcontext() as claim,
        ):
            result = _train(job, relay, claim, steps)
    except Interrupted:  # to start again with more workers
        return
    except Exception as error:
        if (broken := _broken(error)) is not None:  # else another attempt may do better
            ray.get(relay.end.remote(broken))
        raise  # Ray then ends the other workers, which wait for this one
    else:
        if main:
            ray.get(relay.end.remote(Trained(result)))


def _broken(error: Exception) -> Broken | None:
    """What ends the whole run; None for an error that starting again may mend."""
    match error:
        case ValueError():
            return Broken("user", " ".join(str(error).split()))
        case ArithmeticError():
            return Broken("run", " ".join(str(error).split()))
        case Halted():
            return Broken("code", str(error))
        case OutOfMemory():
            return Broken("memory", str(error))
        case DivergedError():
            return Broken("diverged", str(error))
        case Gone() | OSError() if is_of_storage(error):
            return Broken("storage", str(error))
        case _:
            return None


@contextlib.contextmanager
def _failing_to(path: Path) -> Iterator[None]:
    """Writes into the first worker's log how the block failed on another one."""
    try:
        yield
    except Interrupted:
        raise
    except BaseException:
        with log_to(path):
            raise


def _train(job: Mapping[str, Any], relay: Any, claim: Lock | None, steps: Progress | None) -> dict[str, Any]:
    config = configs.from_dict(job["config"])
    options: dict[str, Any] = {"device": _device(config.resources)} if config.resources.gpus_per_worker > 0 else {}
    if job["force"]:  # another training function may not know it
        options["force"] = True

    def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
        answer: Answer = "go on"
        if claim is not None:
            claim.check()
            answer = ray.get(relay.offer.remote(step, dict(metrics)))
        answer = distributed.broadcast(answer)
        ray.train.report(
            {"step": step, **metrics},
            checkpoint=ray.train.Checkpoint(str(checkpoint.parent)),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )
        if answer == "stop":
            raise StopTraining
        if answer == "again":
            raise Interrupted

    calls = Callbacks(report)
    if claim is not None and steps is not None:
        sinks = [RunMetrics(Path(job["output"]), config)]
        calls = Callbacks(report, progress=_told(relay, steps), sinks=sinks)
    options |= {"task": job["task"], "resume": job["resume"], **vars(calls)}
    return training_function(job["train"])(config, Path(job["data"]), Path(job["output"]), **options)


def _told(relay: Any, steps: Progress) -> Progress:
    """What training calls: each step goes to the log, now and then one to the relay."""
    tell = now_and_then(relay.set_progress.remote)

    def progress(done: int, total: int, text: str) -> None:
        steps(done, total, text)
        tell(done, total, text)

    return progress


def _device(resources: ResourcesConfig) -> Any:
    import torch

    check_gpu(resources)
    device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    return device
