"""A trial: the training loop in a thread of the Tune actor (one worker) or a Ray Train job started from it (several).

Tune asks for one result after the other; training waits at each evaluation until Tune has asked for the next one, so
that a trial stopped by the scheduler ends cleanly, with its checkpoint and result written.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from launch import seam
from launch.fence import Claim
from launch.seam import Metrics, Report
from speaq import config as configs
from speaq.config import Config

log = logging.getLogger(__name__)

STOP_WAIT = 60.0  # seconds that a stopped trial is given to end cleanly


@dataclass(frozen=True)
class Job:
    """What all trials of a study share."""

    data: str
    trials: str  # folder of the trials' folders
    metric: str  # what the scheduler compares
    train: str = seam.TRAIN  # import path of the training function


class Trial(tune.Trainable):
    """What Tune makes an actor of; the process is used again for the next trial, so that torch is imported once."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        assert job is not None
        self._job = job
        self._run = Run(job, config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        self._run = Run(self._job, new_config)
        return True

    def step(self) -> dict[str, Any]:
        return self._run.next()

    def cleanup(self) -> None:
        self._run.stop()


class Run:
    """One trial's training in a thread, in lockstep with Tune."""

    def __init__(self, job: Job, config: Mapping[str, Any]) -> None:
        self._job = job
        self._config = configs.from_dict(config["config"])
        self._folder = Path(job.trials) / config["trial"]
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._stopped = False
        self._waits = False
        self._last: dict[str, Any] = {}
        self._begin = time.monotonic()
        self._thread = threading.Thread(target=self._main, name=f"trial-{config['trial']}", daemon=True)
        self._started = False

    def next(self) -> dict[str, Any]:
        """Starts training or lets it go on, and waits for its next result; the last one has `done`."""
        if not self._started:  # not earlier: Tune may set up a process for a trial and give it another one
            self._started = True
            self._thread.start()
        self._release()
        return self._results.get()

    def stop(self) -> None:
        """Ends training at the evaluation where it waits. A run in the middle of its steps ends at the next one."""
        self._stopped = True
        self._release()
        if self._started:
            self._thread.join(STOP_WAIT)

    def _release(self) -> None:
        if self._waits:
            self._waits = False
            self._go.release()

    def _main(self) -> None:
        try:
            outcome = self._train()
        except BaseException as error:
            outcome = {"failure": one_line(error)}
            with contextlib.suppress(OSError):
                (self._folder / "error.txt").write_text(traceback.format_exc())
        self._results.put(seam.final_result(self._last, outcome))

    def _train(self) -> dict[str, Any]:
        with log_to(self._folder / "log.txt"):
            result = run_training(self._job, self._config, self._folder, self._report)
        best = result["best"]
        return {
            "metrics": best["metrics"],
            "best_step": best["step"],
            "step": result["step"],
            "seconds": result["seconds"],
            "cost": result["cost"],
        }

    def _report(self, step: int, metrics: Metrics, checkpoint: Path) -> None:
        from speaq.training.loop import StopTraining  # here, because it takes seconds to import

        if self._stopped:
            raise StopTraining
        seconds = time.monotonic() - self._begin
        self._last = seam.trial_result(step, metrics, metrics.get(self._job.metric), seconds)
        self._waits = True
        self._results.put(self._last)
        self._go.acquire()
        if self._stopped:
            raise StopTraining


def run_training(job: Job, config: Config, folder: Path, report: Report) -> dict[str, Any]:
    """Trains where it should: here, or on workers of its own. A run found in `folder` goes on."""
    if config.resources.num_workers > 1:
        from launch.worker import train_distributed

        return train_distributed(
            config, Path(job.data), folder, report=report, resume=True, train=job.train, shared=True
        )  # the search has looked
    with Claim(folder) as claim:

        def fenced(step: int, metrics: Metrics, checkpoint: Path) -> None:
            claim.check()
            report(step, metrics, checkpoint)

        train = seam.training_function(job.train)
        return train(config, Path(job.data), folder, report=fenced, resume=True)


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Copies the library's log lines of this process into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("speaq")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def one_line(error: BaseException) -> str:
    """An error as a reason: short, without its traceback."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
