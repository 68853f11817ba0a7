"""A trial: the training loop in a thread of the Tune actor (one worker) or a Ray Train job started from it (several).

Tune asks for one result after the other; training waits at each evaluation until Tune has asked for the next one, so
that a trial stopped by the scheduler ends cleanly, with its checkpoint and result written.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import queue
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune

from speaq import config as configs
from speaq.config import Config, ResourcesConfig
from speaq.config.before_encoder import OtherFeatures
from speaq.data import BadFeatures
from speaq.files import locks
from speaq.files.home import make_up_home
from speaq.study.errors import one_line
from speaq.study.file import TRAIN
from speaq.training.callbacks import Callbacks, Metrics, Progress
from speaq.training.endings import Interrupted, StopTraining, ending_signals

from ..search import messages, population
from ..search.messages import Crowded, Died, Displaced, Ended, Finished, Halt
from ..store import workspace
from ..store.claim import claimed
from ..store.folder_copy import Copy
from ..store.remote import joined
from .climb import Climb, Training, trainings
from .code import check_code
from .decoding import Decodings, gain_text, on_a_worker
from .gpu import device_memory
from .logs import LOG, log_to
from .memory import train_in_parts
from .outcomes import is_of_memory, outcome_of
from .place import train_trial

log = logging.getLogger(__name__)

STOP_WAIT = 60.0  # seconds that a stopped trial is given to end cleanly
TERMINATED = 128 + signal.SIGTERM  # exit code


@dataclass(frozen=True)
class Job:
    """What all trials of a study share."""

    data: str
    trials: str  # folder of the trials' folders
    metric: str  # the one number that Tune shows
    train: str = TRAIN  # import path of the training function
    in_parts: bool = True  # a trial that is too large for its device goes on in smaller parts (launch/trials/memory.py)
    url: str | None = (
        None  # of `trials` in an object store: nodes have folders of their own (launch/store/workspace.py)
    )
    mark: str | None = None  # token of the search's lock on the study's folder
    source: str | None = None  # digest of the code of the search
    decodings: Decodings | None = None  # that a trial tries when it has ended (search.decoding)
    climb: Climb | None = None  # how trials come from features to full training, where the search has a ladder of both

    def folder(self, trial: str) -> Path:
        """Where the trial works on this node."""
        return (Path(self.trials) if self.url is None else workspace.working_folder(self.url)) / trial

    def check(self) -> None:
        """Raises Gone where this node does not see the folder in which the search works, or one without its mark."""
        if self.mark is None:
            return
        try:
            locks.check(Path(self.trials).parent, self.mark)
        except locks.Taken as error:
            raise locks.Gone(str(error)) from error
        except locks.Gone as error:
            raise locks.Gone(f"{error} (seen on {platform.node()})") from error


class Trial(tune.Trainable):
    """What Tune makes an actor of; the process is used again for the next trial, so that torch is imported once."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Called by Tune for the first trial of the process; `config` is what the searcher has suggested."""
        assert job is not None
        make_up_home()  # of a node's own user
        self._job = job
        self._run = Run(job, config)
        if threading.current_thread() is threading.main_thread():
            for number in ending_signals():  # as machines that are taken away send SIGTERM
                if number != signal.SIGINT:
                    signal.signal(number, lambda *_: self._run.terminate())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune for the next trial; True: the process can take it."""
        self._run.stop()
        self._run = Run(self._job, new_config)
        return True

    def step(self) -> dict[str, Any]:
        """The next result of the trial."""
        return self._run.next()

    def cleanup(self) -> None:
        """Called by Tune before it ends the process."""
        self._run.stop()


class Run:
    """One trial's training in a thread, in lockstep with Tune."""

    def __init__(self, job: Job, config: Mapping[str, Any]) -> None:
        self._job = job
        self._config: Mapping[str, Any] = config["config"]
        whole = self._config["resources"]["gpus_per_worker"]
        self._shares_gpu = config.get("bundle", {}).get("GPU", whole) < whole  # others may be on it
        self._folder = job.folder(config["trial"])
        self._training: Training | None = None  # at which it is
        self._copy: Copy | None = None
        self._start: Mapping[str, Any] | None = config.get("start")
        self._results: queue.Queue[dict[str, Any]] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._stopped = False
        self._waits = False
        self._last: dict[str, Any] = {}
        self._begin = time.monotonic()
        self._thread = threading.Thread(target=self._main, name=f"trial-{config['trial']}", daemon=True)
        self._started = False
        self._terminated = False

    def next(self) -> dict[str, Any]:
        """Starts training or lets it go on, and waits for its next result; the last one has `done`."""
        if not self._started:  # not earlier: Tune may set up a process for a trial and give it another one
            self._started = True
            self._thread.start()
        self._release()
        return self._results.get()

    def stop(self) -> None:
        """Ends training: at once where it waits at an evaluation, else when it comes to the next one."""
        self._stopped = True
        self._release()
        if self._started:
            self._thread.join(STOP_WAIT)

    def terminate(self) -> None:
        """Ends the process. Training that runs here is first given the time to write a checkpoint."""
        self._terminated = True
        if self._waits or not self._thread.is_alive() or self._config["resources"]["num_workers"] > 1:
            os._exit(TERMINATED)

    def _release(self) -> None:
        if self._waits:
            self._waits = False
            self._go.release()

    def _main(self) -> None:
        ended: Ended = Died("the trial could not say how it ended")
        try:
            check_code(self._job.source)  # before its config is read: other code may not know it
            self._job.check()
            if self._job.url is None:
                ended = self._logged()
            else:
                with workspace.of_trial(joined(self._job.url, self._folder.name), self._folder) as self._copy:
                    ended = self._logged()
                    self._save()
        except BaseException as error:
            ended = self._outcome(error)
        finally:  # Tune waits for it
            self._results.put(messages.final_result(self._last, ended))

    def _logged(self) -> Ended:
        """Trains and returns how that ended, also where it failed."""
        try:
            with log_to(self._folder / LOG) as steps:
                return self._train(steps)
        except Interrupted:
            self._save()
            os._exit(TERMINATED)
        except StopTraining:  # training ends by itself: it was decoded
            return Displaced("was stopped while its decodings were tried")
        except BaseException as error:
            return self._outcome(error)

    def _outcome(self, error: BaseException) -> Ended:
        """What an error means to the search. Where the study or the data are away, the trial is not at fault."""
        if self._shares_gpu and is_of_memory(error):
            return Crowded(one_line(error))
        try:
            self._job.check()
        except locks.Gone as away:
            return outcome_of(away, self._folder)
        features = None if self._training is None else self._training.config.training.features
        for what, folder in (("data", self._job.data), ("features", features)):
            if folder is not None and _is_away(Path(folder)):
                gone = f"{folder}: the {what} are not there any more ({error})"
                return outcome_of(locks.Gone(gone), self._folder)
        if isinstance(error, BadFeatures | OtherFeatures):  # every trial would fail; where they lack images, this one
            return Halt(one_line(error))
        return outcome_of(error, self._folder)

    def _save(self) -> None:
        """At a URL, what has changed is uploaded."""
        if self._copy is not None:
            self._copy.push()

    def _train(self, steps: Progress) -> Finished:
        if self._start is not None:
            parent, step = self._start["trial"], self._start["step"]
            url = None if self._job.url is None else joined(self._job.url, parent)
            population.adopt(self._folder.parent / parent, step, self._folder, url)
        log.info("starts on %s, process %d", platform.node(), os.getpid())
        config, result = self._climb(steps)
        assert self._training is not None
        best, first = result["best"], self._training.first
        log.info("%s at step %d after %.0f s", result["status"], result["step"], result["seconds"])
        done = Finished(
            metrics=best["metrics"],
            best_step=first + best["step"],
            step=first + result["step"],
            seconds=self._training.before + result["seconds"],
            cost={**device_memory(config), **result["cost"], "micro_batch_size": config.training.micro_batch_size},
        )
        if self._job.decodings is None or result["status"] != "finished" or self._stopped:
            return done
        return self._decoded(done, self._job.decodings, config.resources, steps)

    def _decoded(self, done: Finished, decodings: Decodings, resources: ResourcesConfig, steps: Progress) -> Finished:
        """The trial at its best decoding. Raises Interrupted and StopTraining as training does."""

        def tell(tried: int, number: int, text: str) -> None:
            if self._terminated:
                raise Interrupted(f"interrupted while decoding; {self._folder} can be resumed")
            if self._stopped:
                raise StopTraining
            steps(done.step, done.step, f"{text} {tried}/{number}")

        run, data = self._folder, Path(self._job.data)
        with claimed(run):
            if resources.num_workers > 1 and self._job.url is None:  # this process has no share of the cluster
                found = on_a_worker(decodings, run, data, resources, tell)
            else:
                found = decodings.of(run, data, tell)
        log.info("decoded: %s", gain_text(found, decodings.space.search.objective))
        seconds, told = done.seconds + found.decoding.seconds, found.decoding.model_dump()
        return replace(done, metrics=found.metrics, seconds=seconds, decoding=told)

    def _climb(self, steps: Progress) -> tuple[Config, dict[str, Any]]:
        """Trains once, or from features and then in full; returns config and result of the last training."""
        for training in trainings(self._job.climb, configs.from_dict(self._config), self._folder):
            self._training = training
            found = self._train_in_parts(training, steps)
            if self._stopped:
                break
        return found

    def _train_in_parts(self, training: Training, steps: Progress) -> tuple[Config, dict[str, Any]]:
        """Where the study allows it, and the memory is not that of others as well; else as the config says."""
        config, folder = training.config, training.folder
        calls = Callbacks(self._report, self._save, steps, interrupted=lambda: self._terminated)
        train = functools.partial(
            train_trial, data=Path(self._job.data), folder=folder, calls=calls, train=self._job.train, placed=True
        )
        in_parts = self._job.in_parts and not self._shares_gpu
        return train_in_parts(config, train) if in_parts else (config, train(config))

    def _report(self, step: int, metrics: Metrics, checkpoint: Path) -> None:
        if self._stopped:
            raise StopTraining
        self._job.check()
        assert self._training is not None
        ends, step = step == self._training.last, self._training.first + step
        if step == self._last.get("step"):  # after a failure for memory, training reports where it goes on from, again
            return
        shown = (f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
        log.info("evaluated: %s", " · ".join(shown))
        evaluated = messages.Report(step, metrics, time.monotonic() - self._begin)
        self._last = messages.report_result(evaluated, metrics.get(self._job.metric))
        self._waits = True
        self._results.put(self._last)
        self._go.acquire()
        if self._stopped or ends:
            raise StopTraining


def _is_away(folder: Path) -> bool:
    """Whether a folder is not there, cannot be read, or is an empty mount point."""
    try:
        return not any(folder.iterdir())
    except OSError:
        return True
