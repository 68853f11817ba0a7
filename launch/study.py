"""A search in a folder: study.yaml (all that was asked), ledger.jsonl (all that happened), trials/, and the results."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray import tune

from launch import (
    cluster,
    copies,
    results,
    scheduler,
    search,
    storage,
    study_file,
)
from launch.admission import Admission, OnAdmitted
from launch.budget import Budget, BudgetSpent, parse
from launch.cluster import with_absolute_paths
from launch.failures import last_line
from launch.interrupts import Interrupts
from launch.ledger import Entry, Ledger
from launch.mirror import Mirror, joined, opened
from launch.progress import Lines
from launch.search import MEMORY, Feasible, Plan, Search, Starts, compared, most_trials
from launch.sharing import check_shared, problem_of
from launch.storage import Address
from launch.telemetry import SearchMetrics
from launch.trial import Job, Trial
from speaq import config as configs
from speaq import space as spaces
from speaq.config import BASELINE, PUBLISHED, Config, ConfigError
from speaq.data import photo_digest
from speaq.files import atomic
from speaq.files.locks import Gone, Taken
from speaq.space import Space
from speaq.terminal import shown
from speaq.training import moved
from speaq.training.environment import source_digest, versions
from speaq.training.feasible import Feasibility

log = logging.getLogger(__name__)


OF_PREDICTIONS = "predictions:"  # how the training function of a search of predictions begins


class StudyError(RuntimeError):
    """A search that Ray could not go on with; it can be resumed."""


@dataclass(frozen=True)
class Study:
    """What study.yaml holds."""

    plan: Plan
    data: Path
    data_digest: str
    start_digest: str | None  # of the checkpoint that trials start from
    versions: Mapping[str, str]
    train: str = Job.train
    storage: Address | None = None  # what is kept of it: no password, paths seen from the folder
    forced: tuple[Mapping[str, Any], ...] = ()  # resumed in spite of changes: {at, changes}
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of photos and zero-shot list: photo_digest

    @property
    def of_predictions(self) -> bool:
        """Whether its trials train nothing: launch/from_predictions.py."""
        return self.train.startswith(OF_PREDICTIONS)

    @property
    def data_record(self) -> dict[str, Any]:
        """What study.yaml says of the data set."""
        return {"directory": str(self.data), "digest": self.data_digest, **self.seen}

    def dump(self) -> str:
        plan = self.plan
        content = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "question": plan.space.question,
            "objective": list(plan.objective),
            "trials": plan.trials,
            "data": self.data_record,
            "start": None if plan.start is None else str(plan.start),
            "start_digest": self.start_digest,
            "versions": dict(self.versions),
            "train": self.train,
            "storage": None if self.storage is None else dataclasses.asdict(self.storage),
            "forced": list(self.forced),
            "space": spaces.to_dict(plan.space),
            "search": plan.settings.model_dump(mode="json"),
            "references": {label: search.difference(plan.base, c) for label, c in plan.references.items()},
            "config": configs.to_dict(plan.base),
        }
        return configs.dump_yaml(content)


def create(
    config: Config,
    space: Space,
    data: Path,
    *,
    trials: int | None = None,
    objective: str | None = None,
    overrides: Sequence[str] = (),
    train: str = Job.train,
) -> Study:
    """A study from what the user gave; `overrides` are the keys that the command line fixed in `config`.

    Raises:
        ConfigError, DataError: config, space, objective or data cannot be used, alone or together.
    """
    space = space.without(list(overrides))
    if all(key.startswith("inference.") for key in space.parameters):
        raise ConfigError(
            "space: only inference.* keys: every trial would train the same network; train it once and search its "
            "outputs with speaq tune --from-predictions RUN"
        )
    space.check(config)
    ours = train == Job.train  # what another training function can do with the data is its own affair
    feasibility = feasibility_on(data) if ours else None
    if feasibility is not None:
        space = feasibility.narrowed(space)
    base = with_absolute_paths(space.base(config))
    check_groups(base, space, data)
    names = search.objectives(objective or space.search.objective, base)
    if len(names) == 1:  # the checkpoint that a trial keeps is the one that the search compares
        base = configs.apply(base, {"training.best_metric": names[0]})
    settings = space.with_search(
        {"objective": list(names)}, "--objective"
    ).search  # refused where the sampler takes one alone
    references = {
        label: configs.apply(base, values, f"the {label} setting")
        for label, values in (("published", PUBLISHED), ("baseline", BASELINE))
    }
    if feasibility is not None:
        for name in names:
            feasibility.check_metric(name, base, "objective: ")
        feasibility.check_space(space, base)
        references = feasibility.possible(references)
    plan = Plan(base, space, settings, trials or space.search.trials, names, references)
    if settings.sampler == "grid":
        from launch.samplers import grid

        grid(space, base, settings.seed)
    seen = look_again(data, {})[0]
    return Study(plan, data.resolve(), data_digest(data), moved.start_digest(base), versions(), train, seen=seen)


def check_groups(base: Config, space: Space, data: Path) -> None:
    """Before any trial: the predicates of groups of the user's own are those of the data. Raises ConfigError."""
    from speaq.data.visual_genome import open_data

    searched = space.parameters.get(spaces.GROUPS)
    texts = [base.matching.groups, *([] if searched is None else searched.extremes())]
    if named := [text for text in texts if isinstance(text, str)]:
        from speaq.matching.groups import check_names
        from speaq.user_groups import parse

        predicates = open_data(data, need_images=False).vocabulary.predicates
        for text in named:
            check_names(parse(text), predicates)


def feasibility_on(data: Path) -> Feasibility:
    """Judges configs against a data set. Raises DataError."""
    from speaq.data.visual_genome import open_data

    return Feasibility(open_data(data, need_images=False, log=lambda line: None))


def data_digest(data: Path) -> str:
    """The digest by which a data set is known again. Raises DataError."""
    from speaq.data.visual_genome import open_data

    return open_data(data).digest


def look_again(data: Path, before: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What study.yaml notes of photos and zero-shot list, and what differs from before. Raises DataError."""
    from speaq.data.visual_genome import open_data

    return photo_digest.look_again(open_data(data, log=lambda line: None), before)


def read(path: Path) -> Study:
    """study.yaml as it was written. Raises ConfigError."""
    content = configs.read_yaml(path)
    study_file.check(content, path)
    try:
        base = configs.from_dict(content["config"], str(path))
        for name in content["objective"]:
            configs.check_metric(name, base, f"{path}: objective: ")
        settings = spaces.SearchConfig.model_validate(content["search"])
        references = {label: configs.apply(base, values, str(path)) for label, values in content["references"].items()}
        space = spaces.from_dict(content["space"], str(path))
        begins = content.get("start")  # where it has moved to
        plan = Plan(
            base,
            space,
            settings,
            content["trials"],
            tuple(content["objective"]),
            references,
            None if begins is None else Path(begins),
        )
        data = content["data"]
        kept = content.get("storage")  # a study from before there was one has none
        known = None if kept is None else Address(**kept)
        return Study(
            plan,
            Path(data["directory"]),
            data["digest"],
            content["start_digest"],
            content["versions"],
            content["train"],
            known,
            tuple(content.get("forced", ())),
            photo_digest.noted(data),
        )
    except ValidationError as error:
        raise ConfigError(f"{path}: search: {study_file.reason(error)}") from error


def start(study: Study, output: Path, budget: str | None = None, url: str | None = None) -> list[Entry]:
    """Runs a new study in `output`, which must be new or empty, until its budget is spent.

    Args:
        url: of the Optuna storage that mirrors it, as `storage.choose` takes it.

    Raises:
        ConfigError: of the folder, the budget or the storage, before anything has started.
    """
    if budget is not None:
        parse(budget, study.plan.base.resources)
    output = output.resolve()
    check_new(output)
    address = storage.choose(url, output)
    resources = study.plan.base.resources
    with cluster.connected(dashboard=resources.num_workers > 1):  # first: a search that cannot begin leaves nothing
        cluster.check_fits(resources)
        output.mkdir(parents=True, exist_ok=True)
        with opened(address, study.plan) as mirror:
            write(study, output, address)
            check_images(study)
            return run(study, output, budget, mirror)


def check_images(study: Study) -> None:
    """Raises DataError where the study's splits have no image to train on, or to evaluate."""
    if study.train == Job.train:
        feasibility_on(study.data).check_splits(study.plan.base)


def write(study: Study, output: Path, address: Address | None) -> None:
    """study.yaml, with what may be kept of the storage's address."""
    kept = None if address is None else Address(storage.seen_from(address.url, output), address.study)
    atomic.write_text(output / "study.yaml", dataclasses.replace(study, storage=kept).dump())


def check_new(output: Path) -> None:
    """Raises ConfigError unless `output` is a new or empty folder, or that of a search that never began."""
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and _has_begun(output))):
        raise ConfigError(f"{output}: is not empty; give another --output, or --resume {output}")


def _has_begun(output: Path) -> bool:
    """Whether a folder holds more than a study whose driver ended before the first trial."""
    ledger = output / "ledger.jsonl"
    begun = ledger.exists() and ledger.stat().st_size > 0
    return begun or not (output / "study.yaml").exists()


def with_trials(study: Study, trials: int | None) -> Study:
    """The study with another number of trials in all, where one is given."""
    if trials is None or trials == study.plan.trials:
        return study
    log.info("trials in all: %d until now, %d from now on", study.plan.trials, trials)
    return dataclasses.replace(study, plan=dataclasses.replace(study.plan, trials=trials))


def with_possible_trials(study: Study, ledger: Ledger, feasible: Feasible = lambda config: None) -> Study:
    """The study with no more trials than there can be, and no fewer than there are; says so where that is another
    number than was asked for.
    """
    plan, known = study.plan, {entry.digest for entry in ledger.entries.values()}
    possible = most_trials(plan, known, feasible)
    if possible < plan.trials:
        references = " and ".join(plan.references)
        log.warning(
            "the space holds %d different trials, %s included: the search ends after them, not after the %d asked for",
            *(possible, references, plan.trials),
        )
    trials = max(possible, len(ledger.entries))
    return dataclasses.replace(study, plan=dataclasses.replace(plan, trials=trials))


def as_exhausted(study: Study, ledger: Ledger) -> Study:
    """The study with the trials that there are, of a space in which no other was found."""
    asked, there = study.plan.trials, len(ledger.entries)
    log.warning("the space has no other trial: the search ends after %d of %d", there, asked)
    return dataclasses.replace(study, plan=dataclasses.replace(study.plan, trials=there))


def feasible_on(study: Study) -> Feasible:
    """What raises ConfigError or DataError for a config that the study's data cannot carry."""
    return feasibility_on(study.data).check if study.train == Job.train else lambda config: None


def say_nothing_is_left(study: Study, ledger: Ledger, feasible: Feasible = lambda config: None) -> None:
    """Of a study whose trials have all ended, and whether there could be more."""
    there = len(ledger.entries)
    known = {entry.digest for entry in ledger.entries.values()}
    more = most_trials(dataclasses.replace(study.plan, trials=there + 1), known, feasible) > there
    remedy = "--trials asks for more" if more else "the space has no other"
    log.info("all %d trials have ended, nothing is left to do; %s", there, remedy)


def resume(
    output: Path,
    *,
    data: Path | None = None,
    start: Path | None = None,
    trials: int | None = None,
    budget: str | None = None,
    url: str | None = None,
    force: bool = False,
) -> list[Entry]:
    """Finishes the study in `output`: no finished trial is repeated, the others go on from their checkpoints.

    Args:
        data: where the data set is now; default: where it was, or where it has moved to with the study.
        start: where the weights that trials start from are now, likewise.
        trials: a new number of trials in all.
        budget: what the study may cost in all, what it has cost already included.
        url: of its storage, as `storage.again` takes it.
        force: go on where data, start or code are others; the study says so from then on.

    Raises:
        ConfigError: not a study, one that has changed, no such storage, or the study is running.
    """
    output = output.resolve()
    study = with_trials(with_start(read(output / "study.yaml"), output, start), trials)
    where = found_data(study, output, data)
    study = as_now(study, output, where, data_digest(where), begins_with(study, output), force)
    with opened(storage.again(study.storage, url, output), study.plan) as mirror:
        return run(study, output, budget, mirror)


def found_data(study: Study, home: Path, given: Path | None) -> Path:
    """Where the data are now: given, where they were, or moved with `home`. Raises ConfigError."""
    found = moved.find_data(study.data, study.data_digest, home) if given is None else given
    return found.resolve()


def with_start(study: Study, home: Path, given: Path | None) -> Study:
    """The study with the weights that its trials start from where they are now: given, or moved with `home`."""
    plan = study.plan
    if given is not None:
        if study.start_digest is None:
            raise ConfigError(f"--init-from {given}: has no effect, the trials of {home} start from random weights")
        return dataclasses.replace(study, plan=dataclasses.replace(plan, start=given.resolve()))
    found = moved.with_found_start(plan.placed(plan.base), home, study.start_digest)
    named = None if found in (None, plan.base) else moved.start(found)
    return study if named is None else dataclasses.replace(study, plan=dataclasses.replace(plan, start=named[1]))


def begins_with(study: Study, home: Path, *, needed: bool | None = None) -> str | None:
    """The digest of the weights that trials start from; as it was where they are gone and no trial needs them.

    Args:
        needed: whether they are needed; None: where a trial is still to begin.
    Raises:
        ConfigError: they are gone, and needed.
    """
    config = study.plan.placed(study.plan.base)
    named = moved.start(config)
    if named is None or named[1].exists():
        return moved.start_digest(config)
    if _has_to_begin(study, home) if needed is None else needed:
        raise moved.missing_start(config, home)
    return study.start_digest


def _has_to_begin(study: Study, folder: Path) -> bool:
    """Whether a trial has yet to be asked for, or to come to its first checkpoint."""
    from launch import status  # here: it reads studies

    entries = status.read(folder).entries
    without = (e for e in entries if not e.ended and copies.last_checkpoint(folder / "trials" / e.id) is None)
    return len(entries) < study.plan.trials or any(without)


def as_now(study: Study, output: Path, data: Path, digest: str, start: str | None, force: bool) -> Study:
    """The study with the data, the start and the code of today. Raises ConfigError with what differs, unless forced."""
    seen, differences = ({}, []) if study.of_predictions else look_again(data, study.seen)
    now = dataclasses.replace(study, data=data, data_digest=digest, start_digest=start, versions=versions(), seen=seen)
    changes = [f"{name} {then} then, {new} now" for name, then, new in _facts(study, now) if then != new]
    changes += differences if digest == study.data_digest else []  # else it is another data set altogether
    if not changes:
        return now
    if not force:
        raise ConfigError(f"{output}: has changed since the search began ({'; '.join(changes)}); --force goes on")
    for change in changes:
        log.warning("%s", change)
    forced = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "changes": changes}
    return dataclasses.replace(now, forced=(*study.forced, forced))


def _facts(then: Study, now: Study) -> Iterator[tuple[str, str | None, str | None]]:
    """What must stay as it is: (name, then, now)."""
    yield "data set", then.data_digest[:12], now.data_digest[:12]
    yield "start of the trials", (then.start_digest or "none")[:12], (now.start_digest or "none")[:12]
    for name in sorted({*then.versions, *now.versions}):
        if name != "source" or name in then.versions:  # studies from before it was kept
            yield name, then.versions.get(name), now.versions.get(name)


def keep(study: Study, output: Path) -> None:
    """Notes in study.yaml what is no longer as it says: number of trials, where the data are, and changes in spite of
    which the search goes on. The ledger must be locked.
    """
    file = output / "study.yaml"
    content = configs.read_yaml(file)
    now: dict[str, Any] = {"trials": study.plan.trials, "data": study.data_record}
    if study.plan.start is not None:
        now["start"] = str(study.plan.start)
    if content.get("forced", []) != list(study.forced):
        changed = {"start_digest": study.start_digest, "versions": dict(study.versions), "forced": list(study.forced)}
        now |= changed
    if content == content | now:
        return
    atomic.write_text(file, configs.dump_yaml(content | now))


def run(study: Study, output: Path, budget: str | None = None, mirror: Mirror | None = None) -> list[Entry]:
    """Runs what is left of a study and writes its results, also when it is interrupted. Returns all trials."""
    ledger = Ledger(output / "ledger.jsonl")
    with contextlib.closing(ledger):
        ledger.check_objectives(study.plan.objective)
        feasible = feasible_on(study)
        study = with_possible_trials(study, ledger, feasible)
        keep(study, output)
        if mirror is not None:
            mirror.follow(ledger.entries.values())
        limit = None if budget is None else parse(budget, study.plan.base.resources)
        if limit is not None and limit.is_spent(ledger, study.plan.base.resources):
            spent = limit.spent(ledger, study.plan.base.resources)
            raise ConfigError(f"--budget {budget}: the study has taken {spent:.0f} s already; give more")
        (output / "trials").mkdir(exist_ok=True)
        try:
            study = _search(study, output, ledger, limit, mirror, feasible)
        except BaseException:
            with contextlib.suppress(OSError, Gone, Taken):  # has been said already; a resume writes them
                ledger.lock.check()
                _write_results(output, ledger, study.plan)
            raise
        return _write_results(output, ledger, study.plan)


def _write_results(output: Path, ledger: Ledger, plan: Plan) -> list[Entry]:
    """Of all trials, where there are any; returns them."""
    entries = list(ledger.entries.values())
    if entries:
        results.write(output, entries, plan)
    return entries


def _search(
    study: Study, output: Path, ledger: Ledger, budget: Budget | None, mirror: Mirror | None, feasible: Feasible
) -> Study:
    """Runs what is left; returns the study, with fewer trials where there are no more. Raises StudyError."""
    from launch import live, status  # here: they read studies

    plan = study.plan
    if len(ledger.entries) >= plan.trials and all(entry.ended for entry in ledger.entries.values()):
        say_nothing_is_left(study, ledger, feasible)
        return study
    resources = plan.base.resources
    several = resources.num_workers > 1
    with cluster.connected(dashboard=several), copies.following(output) as follower:
        concurrent = cluster.check_fits(resources)
        shared = check_shared(output, study.data, _where_it_is(plan))
        nodes = Admission(shared, lambda node: problem_of(node, output, study.data, _where_it_is(plan)))
        lines = Lines(plan, ledger.entries, concurrent)
        listener = joined(joined(lines, SearchMetrics(output.name, plan, ledger.entries)), mirror)
        listener = joined(listener, follower)
        trials = output / "trials"
        searcher = Search(
            plan,
            ledger,
            listener,
            budget,
            feasible=feasible,
            places=cluster.Places(resources, nodes),
            checkpoint=lambda trial: copies.last_checkpoint(trials / trial),
        )
        if follower is not None:
            follower.halt = searcher.halt
        training = plan.base.training
        chooser = scheduler.make_scheduler(plan.settings, training.max_steps, training.eval_every, trials)
        metric = compared(plan)
        if isinstance(chooser, scheduler.Stopping):
            chooser.replay(ledger.entries.values(), metric)
        # Where memory is limited or searched, too little of it is the answer to the question.
        in_parts = MEMORY not in plan.settings.constraints and "training.micro_batch_size" not in plan.space.parameters
        url = copies.url_of(trials)
        mark = None if url is not None else ledger.lock.token  # at a URL, nodes have folders of their own
        job = Job(str(study.data), str(trials), metric, study.train, in_parts, url, mark, source_digest())
        scratch = Path(tempfile.mkdtemp(prefix="speaq-tune-"))  # not in the study: Tune would make it again when moved

        def now() -> status.Snapshot:
            return status.Snapshot(output, study, list(ledger.entries.values()), True, ledger.wall_now())

        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it names failed trials again
        try:
            with live.live(lines.console, now), Interrupts() as interrupts:
                callbacks = [Starts(searcher), interrupts]
                _tuner(job, plan, searcher, chooser, scratch, callbacks, nodes).fit()
        except BudgetSpent:
            pass
        except Exception as error:
            raise searcher.error or StudyError(f"Ray Tune: {last_line(error)}; --resume {output} goes on") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if searcher.error is not None:
            raise searcher.error
        if budget is not None and searcher.spent and searcher.remaining:
            left = searcher.remaining
            log.warning("budget %s is spent, trials left: %d; --resume %s", budget.text, left, shown(output))
        if searcher.exhausted:
            study = as_exhausted(study, ledger)
            keep(study, output)
        return study


def _where_it_is(plan: Plan) -> Config:
    """The study's config with its start; without, where that is gone and no trial needs it."""
    config = plan.placed(plan.base)
    named = moved.start(config)
    return config if named is None or named[1].exists() else moved.without_start(config)


def _tuner(
    job: Job,
    plan: Plan,
    searcher: Search,
    chooser: Any,
    scratch: Path,
    callbacks: list[tune.Callback],
    nodes: Admission,
) -> tune.Tuner:
    resources = plan.base.resources
    several = resources.num_workers > 1
    # A trial of several workers only waits for them: a sliver of the head node, no CPU.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sys.maxsize)  # the searcher says how many run
    bundle = {"node:__internal_head__": 0.001} if several else cluster.worker_resources(resources)
    trainable = tune.with_resources(tune.with_parameters(Trial, job=job), OnAdmitted(bundle, nodes))
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=chooser,
            num_samples=-1,  # until the searcher has no more
            reuse_actors=not several,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name=f"tune-{int(time.time())}",
            storage_path=str(scratch),
            callbacks=callbacks,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs keep their own
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands trials out again
            verbose=0,
        ),
    )
