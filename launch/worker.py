"""One training run on several workers: the same loop inside Ray Train, with the same files and the same result.

A relay (a tiny actor) carries what rank 0 reports to whoever started the run, and the answer "go on" or "stop" back to
all ranks. So a run that is to be stopped ends on its own: no worker trains on, no placement group is left behind.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
from ray.train.v2.api.config import FailureConfig  # ray.train's, with the types of V2
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launch import cluster, sharing
from launch.failures import StorageLost, is_of_storage, last_line
from launch.fence import Claim
from launch.logs import WORKER_LOG, log_to
from launch.relay import Relay
from launch.seam import TRAIN, Metrics, Progress, Report, training_function
from launch.telemetry import RunMetrics
from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.training import distributed
from speaq.training.endings import DivergedError, OutOfMemory, StopTraining

log = logging.getLogger(__name__)

MAX_FAILURES = 3  # lost workers or nodes that a run survives
START_TIMEOUT = 180.0  # seconds for all workers to start


class WorkersError(RuntimeError):
    """A run on several workers that could not be finished."""


FAILURES: Mapping[str, type[Exception]] = {
    "user": ConfigError,
    "run": WorkersError,
    "memory": OutOfMemory,
    "diverged": DivergedError,
    "storage": StorageLost,
}


def train_distributed(
    config: Config,
    data: Path,
    output: Path,
    *,
    task: Literal["speaq", "detector"] = "speaq",
    report: Report | None = None,
    saved: Callable[[], None] = lambda: None,
    resume: bool = False,
    progress: Progress | None = None,
    train: str = TRAIN,
    shared: bool = False,
) -> dict[str, Any]:
    """Trains on `resources.num_workers` Ray Train workers; arguments, files and result are those of `train`.

    Args:
        saved: called here at each evaluation, before `report`.
        shared: all nodes are known to share output and data.

    Raises:
        ConfigError, DataError: what the user gave cannot be used.
        WorkersError: the workers did not start, or were lost too often.
        OutOfMemory: a device's memory is too small.
        DivergedError: outputs or a loss that are not finite.
        StorageLost: the storage of the run is full, read-only or away.
    """
    output, data, config = output.resolve(), data.resolve(), cluster.with_absolute_paths(config)
    if not resume and (output / "config.yaml").exists():
        raise ConfigError(f"{output}: holds a run already; give another --output, or --resume to go on with it")
    job = {
        "config": configs.to_dict(config),
        "data": str(data),
        "output": str(output),
        "task": task,
        "resume": resume,
        "train": train,
    }
    with cluster.connected(dashboard=True):
        cluster.check_fits(config.resources)
        if not shared:
            sharing.check_shared(output, data, config)
        return _fit(job, config, Told(report, saved, progress))


@dataclass(frozen=True)
class Told:
    """What whoever started a run hears of it."""

    report: Report | None
    saved: Callable[[], None]
    progress: Progress | None


def _fit(job: dict[str, Any], config: Config, told: Told) -> dict[str, Any]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(Relay)
    relay = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    output = Path(job["output"])
    output.mkdir(parents=True, exist_ok=True)
    _remove_traces(output)
    trainer = _trainer({**job, "relay": relay}, config, output)
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    try:
        run = pool.submit(trainer.fit)  # in a thread of its own: this one carries reports
        _carry(relay, run, told, output / "checkpoints" / "last.pt")
        outcome: dict[str, Any] = ray.get(relay.outcome.remote())
    finally:
        pool.shutdown(wait=False)
        ray.kill(relay)
        _remove_traces(output)
    if "failure" in outcome:
        kind, message = outcome["failure"]
        raise FAILURES[kind](message)
    error = run.exception()
    if error is not None:
        raise WorkersError(f"the workers failed: {last_line(error)[:300]}") from error
    return outcome["result"]  # type: ignore[no-any-return]


def _carry(relay: Any, run: concurrent.futures.Future[Any], told: Told, last: Path) -> None:
    """Passes reports on until the run has ended."""
    number = 0
    while not run.done():
        offer = ray.get(relay.take.remote(number))
        if told.progress is not None and (shown := ray.get(relay.progress.remote())) is not None:
            told.progress(*shown)
        if offer is None:
            continue
        number, step, metrics = offer
        go_on = True
        try:
            told.saved()
            if told.report is not None:
                told.report(step, metrics, last)
        except StopTraining:
            go_on = False
        ray.get(relay.answer.remote(number, go_on))


def _remove_traces(output: Path) -> None:
    """Ray's own notes about a run, from which it would resume: we resume from our checkpoint, which is verified."""
    for name in ("checkpoint_manager_snapshot.json", ".validate_storage_marker"):
        (output / name).unlink(missing_ok=True)


def _trainer(job: dict[str, Any], config: Config, output: Path) -> ray.train.torch.TorchTrainer:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT))
    resources = config.resources
    scaling = ray.train.ScalingConfig(
        num_workers=resources.num_workers,
        use_gpu=resources.gpus_per_worker > 0,
        resources_per_worker=cluster.worker_resources(resources),
    )
    run = ray.train.RunConfig(
        name=output.name,  # the run folder is Ray's too: checkpoints are reported where they lie
        storage_path=str(output.parent),
        failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
    )
    return ray.train.torch.TorchTrainer(work, train_loop_config=job, scaling_config=scaling, run_config=run)


def work(job: dict[str, Any]) -> None:
    """What every worker runs."""
    relay = job["relay"]
    main = distributed.world()[0] == 0
    starts, ended = distributed.broadcast(ray.get(relay.begin.remote()) if main else None)
    if ended:  # started again after a failure that starting again cannot help
        return
    try:
        output = Path(job["output"])
        said = log_to(output / WORKER_LOG) if main else contextlib.nullcontext()
        with said as steps, Claim(output) if main else contextlib.nullcontext() as claim:
            result = _train(job, relay, starts, claim, steps)
    except (ValueError, ArithmeticError) as error:
        kind = "user" if isinstance(error, ValueError) else "run"
        ray.get(relay.end.remote({"failure": [kind, " ".join(str(error).split())]}))
    except (OutOfMemory, DivergedError, OSError) as error:
        if isinstance(error, OSError) and not is_of_storage(error):
            raise
        kinds: Mapping[type[Exception], str] = {OutOfMemory: "memory", DivergedError: "diverged"}
        kind = kinds.get(type(error), "storage")
        ray.get(relay.end.remote({"failure": [kind, str(error)]}))
        raise  # the others wait for this worker: starting again, they all find that the run has ended
    else:
        if main:
            ray.get(relay.end.remote({"result": result}))


def _train(
    job: Mapping[str, Any], relay: Any, starts: int, claim: Claim | None, steps: Progress | None
) -> dict[str, Any]:
    config = configs.from_dict(job["config"])
    options: dict[str, Any] = {"device": _device()} if config.resources.gpus_per_worker > 0 else {}
    if claim is not None and steps is not None:
        options["progress"] = _throttled(relay, steps)
        options["sinks"] = [RunMetrics(Path(job["output"]), config)]

    def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
        go_on = True
        if claim is not None:
            claim.check()
            go_on = ray.get(relay.offer.remote(step, dict(metrics)))
        go_on = distributed.broadcast(go_on)
        ray.train.report(
            {"step": step, **metrics},
            checkpoint=ray.train.Checkpoint(str(checkpoint.parent)),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )
        if not go_on:
            raise StopTraining

    return training_function(job["train"])(
        config,
        Path(job["data"]),
        Path(job["output"]),
        task=job["task"],
        report=report,
        resume=job["resume"] or starts > 0,
        **options,
    )


def _throttled(relay: Any, steps: Progress) -> Progress:
    shown = [0.0]

    def progress(done: int, total: int, text: str) -> None:
        steps(done, total, text)
        if time.monotonic() - shown[0] >= 1.0:
            shown[0] = time.monotonic()
            relay.set_progress.remote((done, total, text))

    return progress


def _device() -> Any:
    import torch

    device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    return device
