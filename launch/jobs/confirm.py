"""`speaq confirm`: the best trials of a search, and the published setting, trained again with seeds of their own.

A search's best value is the best of many noisy ones, so it promises too much. Here nothing was selected by the values:
each run is a full training (never from features) from the study's start, in STUDY/confirm/TRIAL/seed-S, with its
recalls by image on the validation split (images.npz). The runs of a round train at once on Ray's workers, as many as
there is room for. The search's own runs never count. STUDY/confirm/confirm.json holds all that is printed. A run that
has ended is never repeated, one that was interrupted goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.config.before_encoder import in_full
from speaq.evaluation.bootstrap import (
    METRICS,
    ImageRecord,
    check_pair,
    difference_over_seeds,
    load_record,
    measure,
    spread_over_seeds,
)
from speaq.evaluation.protocol import common_protocol
from speaq.files import atomic
from speaq.files.atomic import check_links
from speaq.files.foreign import whole_number
from speaq.files.locks import Taken
from speaq.runs import files
from speaq.study import changes as study_changes
from speaq.study import creation, results
from speaq.study.file import TRAIN
from speaq.study.halves import judged_alone
from speaq.study.ledger import Entry, digest
from speaq.study.plan import compared
from speaq.study.snapshot import Snapshot, read
from speaq.training import folder as run_folder
from speaq.training.callbacks import Progresses
from speaq.training.endings import DivergedError, OutOfMemory
from speaq.training.environment import source_digest

from ..search.searcher import config_of
from ..store.claim import claimed
from ..store.workspace import Workspace
from ..trials.place import on_workers, several_at_once
from .confirmed_run import IMAGES, ConfirmedRun, do_on_worker
from .race import Setting, leader, race

if TYPE_CHECKING:
    from .queue import Job, Queue

log = logging.getLogger(__name__)

FOLDER = results.CONFIRMATION.parent
OWN_FAILURES = (DivergedError, OutOfMemory)  # of a run that would fail so again
PUBLISHED = "published"
MAX_SEEDS = 1000


def confirm(
    folder: Path,
    seeds: str,
    top: int,
    data: Path | None,
    progress: Progresses,
    *,
    start: Path | None = None,
    here: Workspace = Workspace(),
) -> dict[str, Any]:
    """Trains and compares. Returns what confirm.json holds; its leader is None where no setting has a value.

    Args:
        seeds: `3..7` (both ends included), `3,5,9`, or both.
        top: number of best finished trials; the published setting is trained besides.
        data: where the data are now, default: where they were, or where they have moved to with the study.
        start: where the weights that trials start from are now, likewise.

    Raises:
        ConfigError, DataError: nothing to confirm, seeds that confirm nothing, changed data or start, or the study is
            at work.
        Interrupted: Ctrl-C while training; the same command goes on.
    """
    wanted = parse_seeds(seeds)
    snapshot = read(folder.resolve())
    chosen = [*choose(snapshot, top), *_untried(snapshot, data)]
    _check_seeds(wanted, chosen, seeds)
    study = study_changes.with_start(snapshot.study, snapshot.folder, start)
    snapshot = dataclasses.replace(snapshot, study=study)
    needed = any(not run_folder.has_checkpoint(_folder(snapshot, e, seed)) for e in chosen for seed in wanted)
    where = _check_unchanged(snapshot, data, needed=needed)
    check_links(snapshot.folder)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(snapshot.folder / FOLDER, wait=0.0))
        except Taken as error:
            raise ConfigError(f"{folder}: another speaq confirm is running on this study") from error
        confirmation = _Confirmation(snapshot, where, wanted, chosen, progress, here)
        return confirmation.run(stack.enter_context(_queue(confirmation)))


@contextlib.contextmanager
def _queue(confirmation: _Confirmation) -> Iterator[Queue | None]:
    """What does the runs of a round at once; None where they train here, one after the other.

    That is so where none asks for a GPU or for several workers, and there is a single one left to train, Ray is not
    installed, or its cluster has room for one at a time.
    """
    snapshot, here = confirmation.snapshot, confirmation.here
    config = snapshot.plan.base
    if not several_at_once(config, confirmation.left()):
        yield None
        return
    from ..cluster import connection
    from .admitted import admission_in_folder
    from .queue import Queue

    resources, url = config.resources, here.url_of(snapshot.folder)
    with connection.connected(dashboard=resources.num_workers > 1):
        if not on_workers(config) and connection.runs(resources) < 2:
            yield None
            return
        connection.check_fits(resources)
        with contextlib.closing(admission_in_folder(snapshot.study, snapshot.folder, url)) as nodes:
            yield Queue(resources, confirmation.progress, nodes, beat=here.saver(snapshot.folder))


def parse_seeds(text: str) -> list[int]:
    """`3..5,9` → [3, 4, 5, 9]. Raises ConfigError where there is none, or one twice."""
    rule = f"--seeds {configs.short(repr(text))}: whole numbers from 0, as 3..7 or 3,5,9"
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        begin, end = whole_number(first), whole_number(last if dots else first)
        if begin is None or end is None:
            raise ConfigError(rule)
        if end < begin:
            raise ConfigError(f"--seeds {text!r}: {part.strip()} runs backwards; write {end}..{begin}")
        if end - begin >= MAX_SEEDS:
            raise ConfigError(f"--seeds {text!r}: at most {MAX_SEEDS} seeds")
        seeds += range(begin, end + 1)
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise ConfigError(f"--seeds {text!r}: {twice[0]} is there twice, and the second run would be the first again")
    return seeds


def choose(snapshot: Snapshot, top: int) -> list[Entry]:
    """The best finished trials, best first, and the published setting where it has finished. Raises ConfigError."""
    name, plan = snapshot.folder, snapshot.plan
    if top < 1:
        raise ConfigError(f"--top {top}: at least 1")
    if snapshot.study.of_predictions:
        raise ConfigError(
            f"{name}: is a search of stored predictions, where nothing is trained and no seed plays a part; compare "
            "two decodings with speaq metrics A --data D --against B"
        )
    if snapshot.active:
        raise ConfigError(f"{name}: a search is running on this folder; confirm it when it has ended")
    for metric in plan.objective:
        if metric.partition("@")[0] not in METRICS:
            raise ConfigError(
                f"{name}: objective {metric} has no interval over images; {', '.join(METRICS)} with @K do"
            )
    finished = [entry for entry in snapshot.entries if entry.state == "finished"]
    if not finished:
        raise ConfigError(f"{name}: no trial has finished, there is nothing to confirm (speaq status {name})")
    common_protocol(entry.protocol for entry in finished)
    if PUBLISHED in plan.settings.references and not any(entry.label == PUBLISHED for entry in finished):
        log.warning("the published setting has not finished in this search: no difference to it")
    return results.best_and_published(finished, plan.objective, top)


def _untried(snapshot: Snapshot, data: Path | None) -> list[Entry]:
    """The published setting as a trial, where the search was told to leave it out and the data can carry it."""
    plan, study = snapshot.plan, snapshot.study
    if PUBLISHED in plan.settings.references:
        return []
    config = configs.apply(plan.base, configs.PUBLISHED)
    if study.train == TRAIN:
        feasibility = creation.feasibility_on(study_changes.found_data(study, snapshot.folder, data))
        try:
            feasibility.check(config)
        except ConfigError as error:
            log.warning("no difference to the published setting, which cannot be trained on this data set: %s", error)
            return []
    return [Entry(PUBLISHED, digest(config), PUBLISHED, None, dict(configs.PUBLISHED), seed=config.seed)]


def _check_seeds(seeds: Sequence[int], chosen: Sequence[Entry], text: str) -> None:
    for entry in chosen:
        if entry.seed in seeds:
            raise ConfigError(
                f"--seeds {text!r}: trial {entry.id} was selected by its result with seed {entry.seed}, which confirms "
                "nothing; leave that seed out"
            )


def _folder(snapshot: Snapshot, entry: Entry, seed: int) -> Path:
    return snapshot.folder / FOLDER / entry.id / f"seed-{seed}"


def _check_unchanged(snapshot: Snapshot, data: Path | None, *, needed: bool) -> Path:
    """Where the data are. Raises ConfigError where they, or the weights that trials start from, have changed.

    Args:
        needed: whether a run has yet to begin from those weights.
    """
    study = snapshot.study
    where = study_changes.found_data(study, snapshot.folder, data)
    now = creation.data_digest(where)
    if now != study.data_digest:
        then = study.data_digest[:12]
        raise ConfigError(f"{snapshot.folder}: was searched on other data (digest {then}, {where} has {now[:12]})")
    if changes := creation.look_again(where, study.seen)[1]:
        raise ConfigError(f"{snapshot.folder}: {where} has changed since the search ({'; '.join(changes)})")
    if study_changes.begins_with(study, snapshot.folder, needed=needed) != study.start_digest:
        raise ConfigError(f"{snapshot.folder}: the weights that its trials start from have changed since")
    return where


@dataclass
class _Confirmation:
    snapshot: Snapshot
    data: Path
    seeds: list[int]
    chosen: list[Entry]
    progress: Progresses
    here: Workspace
    first: ImageRecord | None = None  # all others must be of the same images

    def run(self, queue: Queue | None) -> dict[str, Any]:
        """Trains what is left of the race, in a queue where there is one, and returns what confirm.json holds."""
        objective = self.snapshot.plan.objective
        scores = [results.score(e.metrics, objective) if e.metrics else None for e in self.chosen]
        settings = [Setting(e.id, e.label, score) for e, score in zip(self.chosen, scores, strict=True)]

        def train(racing: Sequence[Setting], seed: int) -> None:
            def take(setting: Setting, error: Exception | None) -> None:
                self._take(setting, seed, error)
                self._write(settings, complete=False)

            runs = [(setting, self._run(setting.trial, seed)) for setting in racing]
            if queue is not None:
                self._train_in(queue, runs, take)
                return
            for setting, run in runs:
                take(setting, self._train_here(run))

        race(settings, self.seeds, train)
        return self._write(settings, complete=True)

    def left(self) -> int:
        """Runs that may have to be trained or evaluated. Raises ConfigError for one of another config."""
        return sum(not self._run(entry.id, seed).is_done for entry in self.chosen for seed in self.seeds)

    def _entry(self, trial: str) -> Entry:
        return next(entry for entry in self.chosen if entry.id == trial)

    def _run(self, trial: str, seed: int) -> ConfirmedRun:
        """A run of the race. Raises ConfigError where its folder holds one of another config."""
        snapshot = self.snapshot
        plan, entry = snapshot.plan, self._entry(trial)
        found = {} if entry.decoding is None else entry.decoding.found
        config = configs.apply(in_full(plan.placed(config_of(plan, entry))), {"seed": seed, **found})
        folder = _folder(snapshot, entry, seed)
        ended = files.read(folder / files.RESULT) is not None
        if ended and digest(_whole(configs.load(folder / "config.yaml"))) != digest(_whole(config)):
            raise ConfigError(f"{folder}: holds a run of another config; move it away")
        study = snapshot.study
        return ConfirmedRun(config, folder, self.data, study.data_digest, compared(plan), study.train)

    def _train_in(
        self,
        queue: Queue,
        runs: Sequence[tuple[Setting, ConfirmedRun]],
        take: Callable[[Setting, Exception | None], None],
    ) -> None:
        """Does at once what is left of the runs; `take` gets each setting as its run ends, with what it failed of."""
        from . import queue as jobs_on_ray  # with Ray

        left = {run.name: (setting, run) for setting, run in runs if not run.is_done}
        for setting, run in runs:
            if run.is_done:
                take(setting, None)

        def ended(job: Job, outcome: object) -> None:
            if isinstance(outcome, Exception) and not isinstance(outcome, (*OWN_FAILURES, jobs_on_ray.JobDied)):
                raise outcome
            take(left[job.name][0], outcome if isinstance(outcome, Exception) else None)

        source = source_digest()
        jobs = [
            jobs_on_ray.Job(name, do_on_worker, (run, source), functools.partial(self.here.last_checkpoint, run.folder))
            for name, (_, run) in left.items()
        ]
        queue.run(jobs, ended)

    def _train_here(self, run: ConfirmedRun) -> Exception | None:
        """Does what is left of a run in this process; returns what it failed of."""
        run.folder.parent.mkdir(exist_ok=True)
        try:
            if not run.is_trained:
                with self.progress(run.name) as tell:
                    run.train_to_end(tell, self.here.saver(self.snapshot.folder))
        except OWN_FAILURES as error:
            return error
        if not run.is_done:
            from speaq.runs.run import evaluate_run

            with self.progress(f"{run.name} by image") as tell:
                run.keep_images(lambda: evaluate_run(run.folder, "val", run.data, progress=tell))
        return None

    def _take(self, setting: Setting, seed: int, error: Exception | None) -> None:
        """Adds a run that has ended to its setting, or notes what it failed of: then the setting leaves the race."""
        if error is not None:
            setting.failure = f"seed {seed}: {' '.join(str(error).split())}"
            log.warning("trial %s leaves: %s", setting.trial, setting.failure)
            return
        objective, run = self.snapshot.plan.objective, self._run(setting.trial, seed)
        record, result = load_record(run.folder / IMAGES), files.read(run.folder / files.RESULT)
        assert result is not None
        self.first = self.first or record
        check_pair(self.first, record)
        setting.runs[seed] = measure(record, objective)
        setting.same_images[seed] = results.score(result["best"]["metrics"], objective)
        if self._entry(setting.trial).decoding is not None:  # the search judged it on half of them
            on_half = judged_alone(record, self.data, self.snapshot.plan.base)
            setting.same_images[seed] = measure(on_half, objective).value
        value = setting.runs[seed].value
        log.info("trial %s seed %d: %s %.4f", setting.trial, seed, results.metric_name(objective), value)

    def _write(self, settings: Sequence[Setting], *, complete: bool) -> dict[str, Any]:
        content = {
            "objective": list(self.snapshot.plan.objective),
            "protocol": None if self.first is None else self.first.protocol,
            "images": 0 if self.first is None else len(self.first.table.index),
            "trials": sum(entry.state == "finished" for entry in self.snapshot.entries),
            "seeds": self.seeds,
            "complete": complete,
            **summary(settings, results.metric_name(self.snapshot.plan.objective)),
        }
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        atomic.write_text(self.snapshot.folder / results.CONFIRMATION, text)
        return content


def _whole(config: Config) -> Config:
    """As it was asked for, in however many parts it was trained."""
    return configs.apply(config, {"training.micro_batch_size": None})


def summary(settings: Sequence[Setting], metric: str) -> dict[str, Any]:
    """What the race says, for JSON; `settings` begin with the search's best. Values are in [0, 1]."""
    first = leader(settings)
    published = next((s for s in settings if s.label == PUBLISHED), None)
    return {
        "leader": None if first is None else first.trial,
        "optimism": _optimism(settings[0]),
        "settings": [
            {
                "trial": s.trial,
                "label": s.label,
                "search": s.search_value,
                "seeds": {str(seed): run.value for seed, run in s.runs.items()},
                "mean": vars(s.mean) if s.runs else None,
                "over_images_alone": len(s.runs) == 1,
                "over_published": _over(s, published, metric),
                "left_after_seed": s.left_after,
                "failure": s.failure,
            }
            for s in settings
        ],
    }


def _over(setting: Setting, published: Setting | None, metric: str) -> dict[str, Any] | None:
    if published is None or setting is published or not setting.runs or not published.runs:
        return None
    found = difference_over_seeds(setting.measured, published.measured)
    numbers = vars(found)
    return {**numbers, "text": f"{results.points(numbers, metric)} over the published setting"}


def _optimism(best: Setting) -> dict[str, Any] | None:
    """By how much the search's best value lies above its mean with new seeds, on the images of the search.

    Its interval is over the seeds; the images are the same on both sides. What selection has fitted to the validation
    images themselves is not in it: only the test split shows that.
    """
    if not best.same_images or best.search_value is None:
        return None
    mean, interval = spread_over_seeds(list(best.same_images.values()))
    value = best.search_value - mean
    ends = None if interval is None else [best.search_value - interval.high, best.search_value - interval.low]
    return {"trial": best.trial, "search": best.search_value, "confirmed": mean, "value": value, "interval": ends}
