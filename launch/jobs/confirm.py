"""`speaq confirm`: the best trials of a search, and the published setting, trained again with seeds of their own.

A search's best value is the best of many noisy ones, so it promises too much. Here nothing was selected by the values:
each run is a full training from the study's start, in STUDY/confirm/TRIAL/seed-S, with its recalls by image on the
validation split (images.npz). The search's own runs never count. STUDY/confirm/confirm.json holds all that is printed.
A run that has ended is never repeated, one that was interrupted goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.jobs.race import Setting, leader, race
from launch.search.searcher import config_of
from launch.store.claim import claimed
from launch.store.workspace import Workspace
from launch.trials.memory import train_in_parts
from launch.trials.place import on_workers, train_trial
from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.evaluation.bootstrap import (
    METRICS,
    ImageRecord,
    check_pair,
    difference_over_seeds,
    load_record,
    measure,
    save_record,
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
from speaq.study.halves import judged_alone
from speaq.study.ledger import Entry, digest
from speaq.study.plan import compared
from speaq.study.snapshot import Snapshot, read
from speaq.training import folder as run_folder
from speaq.training.callbacks import Callbacks, Metrics, Progress, Progresses

if TYPE_CHECKING:
    from speaq.runs.run import RunEvaluation

log = logging.getLogger(__name__)

FOLDER, IMAGES = results.CONFIRMATION.parent, "images.npz"
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
    chosen = choose(snapshot, top)
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
        stack.enter_context(_connected(snapshot.plan.base))
        return _Confirmation(snapshot, where, wanted, chosen, progress, here).run()


def _connected(config: Config) -> contextlib.AbstractContextManager[None]:
    """A connection to Ray for all runs together, where they train on its workers."""
    if not on_workers(config):
        return contextlib.nullcontext()
    from launch.cluster import connection

    return connection.connected(dashboard=True)


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
    if not any(entry.label == PUBLISHED for entry in finished):
        log.warning("the published setting has not finished in this search: no difference to it")
    return results.best_and_published(finished, plan.objective, top)


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

    def run(self) -> dict[str, Any]:
        plan = self.snapshot.plan
        entries = {entry.id: entry for entry in self.chosen}
        settings = [Setting(e.id, e.label, results.score(e.metrics, plan.objective)) for e in self.chosen]

        def train(setting: Setting, seed: int) -> None:
            self._add_run(setting, entries[setting.trial], seed)
            self._write(settings, complete=False)

        race(settings, self.seeds, train)
        return self._write(settings, complete=True)

    def _add_run(self, setting: Setting, entry: Entry, seed: int) -> None:
        from speaq.training.endings import DivergedError, OutOfMemory

        objective = self.snapshot.plan.objective
        folder = _folder(self.snapshot, entry, seed)
        try:
            result = self._trained(folder, self._config(entry, seed), f"trial {entry.id} seed {seed}")
        except (DivergedError, OutOfMemory) as error:
            setting.failure = f"seed {seed}: {' '.join(str(error).split())}"
            log.warning("trial %s leaves: %s", entry.id, setting.failure)
            return
        record = self._record(folder)
        setting.runs[seed] = measure(record, objective)
        setting.same_images[seed] = results.score(result["best"]["metrics"], objective)
        if entry.decoding is not None:  # the search judged it on half of them
            on_half = judged_alone(record, self.data, self.snapshot.plan.base)
            setting.same_images[seed] = measure(on_half, objective).value
        value = setting.runs[seed].value
        log.info("trial %s seed %d: %s %.4f", entry.id, seed, results.metric_name(objective), value)

    def _config(self, entry: Entry, seed: int) -> Config:
        plan = self.snapshot.plan
        found = {} if entry.decoding is None else entry.decoding.found
        return configs.apply(plan.placed(config_of(plan, entry)), {"seed": seed, **found})

    def _trained(self, folder: Path, config: Config, title: str) -> Mapping[str, Any]:
        """result.json of the run, which is trained to its end where it has not ended."""
        result = files.read(folder / files.RESULT)
        if result is not None:
            if digest(_whole(configs.load(folder / "config.yaml"))) != digest(_whole(config)):
                raise ConfigError(f"{folder}: holds a run of another config; move it away")
            return result
        study, steps = self.snapshot.study, config.training.max_steps
        metric = compared(study.plan)
        folder.parent.mkdir(exist_ok=True)
        with self.progress(title) as tell:

            def report(step: int, metrics: Metrics, checkpoint: Path) -> None:
                tell(step, steps, f"{metric} {metrics.get(metric) or 0.0:.4f}")

            calls, url = Callbacks(report, self.here.saver(self.snapshot.folder)), self.here.url_of(folder)

            def train(config: Config) -> dict[str, Any]:
                return train_trial(config, self.data, folder, calls, train=study.train, url=url)

            return train_in_parts(config, train)[1]

    def _record(self, folder: Path) -> ImageRecord:
        """Recalls by image on the validation split, kept beside the run."""
        path = folder / IMAGES
        if not path.exists():
            with self.progress(f"{folder.parent.name} {folder.name} by image") as tell:
                done = self._evaluate(folder, tell)
            result, table = done.evaluation.recall, done.evaluation.table
            assert result is not None
            assert table is not None
            save_record(ImageRecord.made(table, result, self.snapshot.study.data_digest), path)
        record = load_record(path)
        self.first = self.first or record
        check_pair(self.first, record)
        return record

    def _evaluate(self, folder: Path, tell: Progress) -> RunEvaluation:
        """Of the validation split, where the config says."""
        resources = self.snapshot.plan.base.resources
        if resources.gpus_per_worker:
            from launch.jobs.remote_evaluation import evaluate_remotely

            return evaluate_remotely(folder, "val", self.data, resources)
        from speaq.runs.run import evaluate_run

        return evaluate_run(folder, "val", self.data, progress=tell)

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
    if not best.same_images:
        return None
    mean, interval = spread_over_seeds(list(best.same_images.values()))
    value = best.search_value - mean
    ends = None if interval is None else [best.search_value - interval.high, best.search_value - interval.low]
    return {"trial": best.trial, "search": best.search_value, "confirmed": mean, "value": value, "interval": ends}
