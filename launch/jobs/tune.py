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
from pathlib import Path
from typing import Any

from ray import tune

from launch.cluster import connection
from launch.cluster.admission import Admission, OnAdmitted
from launch.cluster.interrupts import Interrupts
from launch.cluster.sharing import nodes_that_share, problem_of
from launch.jobs.progress import Lines
from launch.report.png import write_results
from launch.search import scheduler, storage
from launch.search.mirror import Mirror, joined, opened
from launch.search.searcher import Search, Starts
from launch.store import workspace
from launch.trials.telemetry import SearchMetrics
from launch.trials.trial import Job, Trial
from speaq.cli.terminal import shown
from speaq.config import Config, ConfigError
from speaq.files import atomic
from speaq.files.locks import Gone, Taken
from speaq.study import snapshot
from speaq.study.budget import Budget, BudgetSpent, parse
from speaq.study.changes import as_now, begins_with, found_data, with_start
from speaq.study.creation import check_images, data_digest, feasible_on
from speaq.study.errors import last_line
from speaq.study.extent import as_exhausted, say_nothing_is_left, with_possible_trials, with_trials
from speaq.study.file import Address, Study, check_new, keep, read
from speaq.study.ledger import Entry, Ledger
from speaq.study.plan import MEMORY, Feasible, Plan, compared
from speaq.training import origins
from speaq.training.environment import source_digest

log = logging.getLogger(__name__)


class StudyError(RuntimeError):
    """A search that Ray could not go on with; it can be resumed."""


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
    with connection.connected(dashboard=resources.num_workers > 1):  # first: a search that cannot begin leaves nothing
        connection.check_fits(resources)
        output.mkdir(parents=True, exist_ok=True)
        with opened(address, study.plan) as mirror:
            write(study, output, address)
            check_images(study)
            return run(study, output, budget, mirror)


def write(study: Study, output: Path, address: Address | None) -> None:
    """study.yaml, with what may be kept of the storage's address."""
    kept = None if address is None else Address(storage.seen_from(address.url, output), address.study)
    atomic.write_text(output / "study.yaml", dataclasses.replace(study, storage=kept).dump())


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
    study = as_now(
        study, output, where, data_digest(where), begins_with(study, output, needed=_has_to_begin(study, output)), force
    )
    with opened(storage.again(study.storage, url, output), study.plan) as mirror:
        return run(study, output, budget, mirror)


def _has_to_begin(study: Study, folder: Path) -> bool:
    """Whether a trial has yet to be asked for, or to come to its first checkpoint."""

    entries = snapshot.read(folder).entries
    without = (e for e in entries if not e.ended and workspace.last_checkpoint(folder / "trials" / e.id) is None)
    return len(entries) < study.plan.trials or any(without)


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
        write_results(output, entries, plan)
    return entries


def _search(
    study: Study, output: Path, ledger: Ledger, budget: Budget | None, mirror: Mirror | None, feasible: Feasible
) -> Study:
    """Runs what is left; returns the study, with fewer trials where there are no more. Raises StudyError."""
    from launch.jobs import live  # here: they read studies

    plan = study.plan
    if len(ledger.entries) >= plan.trials and all(entry.ended for entry in ledger.entries.values()):
        say_nothing_is_left(study, ledger, feasible)
        return study
    resources = plan.base.resources
    several = resources.num_workers > 1
    with connection.connected(dashboard=several), workspace.following(output) as follower:
        concurrent = connection.check_fits(resources)
        shared = nodes_that_share(output, study.data, _where_it_is(plan))
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
            places=connection.Places(resources, nodes),
            checkpoint=lambda trial: workspace.last_checkpoint(trials / trial),
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
        url = workspace.url_of(trials)
        mark = None if url is not None else ledger.lock.token  # at a URL, nodes have folders of their own
        job = Job(str(study.data), str(trials), metric, study.train, in_parts, url, mark, source_digest())
        scratch = Path(tempfile.mkdtemp(prefix="speaq-tune-"))  # not in the study: Tune would make it again when moved

        def now() -> snapshot.Snapshot:
            return snapshot.Snapshot(output, study, list(ledger.entries.values()), True, ledger.wall_now())

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
    named = origins.start(config)
    return config if named is None or named[1].exists() else origins.without_start(config)


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
    bundle = {"node:__internal_head__": 0.001} if several else connection.worker_resources(resources)
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
