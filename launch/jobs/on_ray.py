"""The trials of a search train on Ray: how the cluster, the searcher, the scheduler and the trials come together."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from speaq import space as spaces
from speaq.config import ConfigError, ResourcesConfig
from speaq.files.shipped import shipped
from speaq.space import SearchConfig
from speaq.space.checks import decoded_keys
from speaq.study.budget import Budget, BudgetSpent, parse
from speaq.study.errors import last_line
from speaq.study.extent import as_exhausted, say_nothing_is_left
from speaq.study.file import Study
from speaq.study.ledger import Entry, Ledger
from speaq.study.plan import MEMORY, Feasible, Plan, compared
from speaq.study.snapshot import at_work
from speaq.training.environment import source_digest

from ..cluster import connection
from ..cluster.admission import OnAdmitted
from ..cluster.interrupts import Interrupts
from ..search import scheduler
from ..search.mirror import Mirror
from ..search.placement import Placement
from ..search.promotions import Promotions
from ..search.searcher import Search, Starts
from ..store.workspace import Workspace
from ..trials.climb import climb_of
from ..trials.decoding import TRIED, Decodings
from ..trials.telemetry import SearchMetrics
from ..trials.trial import Job, Trial
from .admitted import admission
from .display import Display, silent

log = logging.getLogger(__name__)


class StudyError(RuntimeError):
    """A search that Ray could not go on with; it can be resumed."""


@dataclass(frozen=True)
class OnRay:
    """Work of a study (`launch.jobs.tune.Work`) whose trials train."""

    budget: str | None = None  # what the study may cost in all
    display: Display = silent
    here: Workspace = field(default_factory=Workspace)

    def write(self, output: Path, entries: Sequence[Entry], plan: Plan) -> None:
        """There are no results but those of every search."""

    def search(
        self, study: Study, output: Path, ledger: Ledger, feasible: Feasible, mirror: Mirror | None = None
    ) -> Study:
        """Trains what is left. Raises ConfigError where the budget is spent already, StudyError where Ray fails."""
        plan, resources, decodings = study.plan, study.plan.base.resources, decodings_of(study.plan)
        budget = None if self.budget is None else _unspent(self.budget, ledger, plan)
        (output / "trials").mkdir(exist_ok=True)

        def checkpoint(trial: str) -> object:
            return self.here.checkpoint_of_trial(output / "trials" / trial)

        promotions = Promotions(plan, ledger.entries, checkpoint)
        if _is_done(plan, ledger, promotions):
            say_nothing_is_left(study, ledger, feasible)
            return study
        with contextlib.ExitStack() as stack:
            stack.enter_context(connection.connected(dashboard=resources.num_workers > 1))
            connection.check_fits(resources)
            nodes = stack.enter_context(contextlib.closing(admission(study, output, self.here.url_of(output))))
            placement = Placement(resources, ledger.entries, nodes, _bundle)
            searcher = Search(
                plan,
                ledger,
                [SearchMetrics(output.name, plan, ledger.entries), *([] if mirror is None else [mirror])],
                budget=budget,
                feasible=feasible,
                places=connection.Places(placement.resources, nodes),
                checkpoint=checkpoint,
                promotions=promotions,
                url=self.here.url_of(output / "trials"),
                placement=placement,
            )
            with self.here.following(output, searcher.halt) as follower:
                if follower is not None:
                    searcher.listeners.append(follower)
                _Running(self, study, output, ledger, searcher, decodings=decodings).fit()
        if budget is not None and searcher.spent and searcher.remaining:
            left = searcher.remaining
            where = self.here.name_of(output)
            log.warning("budget %s is spent, trials left: %d; --resume %s", budget.text, left, where)
        return as_exhausted(study, ledger) if searcher.exhausted else study


def decodings_of(plan: Plan) -> Decodings | None:
    """What each trial tries when it has ended, but for the keys that the space fixes; None: nothing is asked for."""
    if not plan.settings.decoding:
        return None
    space = spaces.load(shipped("search_spaces", "inference"))
    settings = SearchConfig(
        objective=list(plan.objective), trials=TRIED, seed=plan.settings.seed, prior="none", scheduler="none"
    )
    searched = {key: space.parameters[key] for key in decoded_keys(plan.space)}
    return Decodings(space.model_copy(update={"search": settings, "fixed": {}, "parameters": searched}))


def _bundle(resources: ResourcesConfig) -> dict[str, float]:
    """What a trial holds. One of several workers only waits for them: a sliver of the head node, no CPU."""
    return {"node:__internal_head__": 0.001} if resources.num_workers > 1 else connection.worker_resources(resources)


def _where(suggestion: dict[str, Any]) -> OnAdmitted:
    """What Tune places a trial by: each says so itself, since what is given for all of them comes to Tune as a copy."""
    return OnAdmitted(suggestion["bundle"], suggestion["nodes"])


def _is_done(plan: Plan, ledger: Ledger, promotions: Promotions) -> bool:
    """Whether all trials that are wanted have ended, and no paused one deserves to go on."""
    ended = len(ledger.entries) >= plan.trials and all(entry.ended for entry in ledger.entries.values())
    return ended and not promotions.due()


def _unspent(text: str, ledger: Ledger, plan: Plan) -> Budget:
    """A budget of which something is left. Raises ConfigError."""
    budget, resources = parse(text, plan.base.resources), plan.base.resources
    if budget.is_spent(ledger, resources):
        spent = budget.spent(ledger, resources)
        raise ConfigError(f"--budget {text}: the study has taken {spent:.0f} s already; give more")
    return budget


@dataclass(frozen=True)
class _Running:
    """A search at work."""

    work: OnRay
    study: Study
    output: Path
    ledger: Ledger
    searcher: Search
    decodings: Decodings | None

    def fit(self) -> None:
        """Lets Tune run trials until the searcher has no more, or the budget is spent. Raises StudyError, Halted."""
        searcher = self.searcher
        now = functools.partial(at_work, self.output, self.study, self.ledger)
        logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it names failed trials again
        try:
            # Tune's own notes; not in the study, which Tune would make again when that has been moved.
            notes = tempfile.TemporaryDirectory(prefix="speaq-tune-", ignore_cleanup_errors=True)
            with notes as scratch, self.work.display(now) as shown, Interrupts() as interrupts:
                searcher.listeners.insert(0, shown)
                self._tuner(scratch, [Starts(searcher), interrupts]).fit()
        except BudgetSpent:
            pass
        except Exception as error:
            raise searcher.error or StudyError(
                f"Ray Tune: {last_line(error)}; --resume {self.output} goes on"
            ) from error
        if searcher.error is not None:
            raise searcher.error

    def _scheduler(self) -> TrialScheduler:
        """What stops trials early, with what earlier drivers saw."""
        plan, training = self.study.plan, self.study.plan.base.training
        trials, url = self.output / "trials", self.work.here.url_of(self.output / "trials")
        made = scheduler.make_scheduler(plan.settings, training.max_steps, training.eval_every, trials, url)
        if isinstance(made, scheduler.Stopping):
            made.replay(self.ledger.entries.values())
        return made

    def _job(self) -> Job:
        plan, trials = self.study.plan, self.output / "trials"
        # Where memory is limited or searched, too little of it is the answer to the question.
        in_parts = MEMORY not in plan.settings.constraints and "training.micro_batch_size" not in plan.space.parameters
        url = self.work.here.url_of(trials)
        return Job(
            data=str(self.study.data),
            trials=str(trials),
            metric=compared(plan),
            train=self.study.train,
            in_parts=in_parts,
            url=url,
            mark=None if url is not None else self.ledger.lock.token,  # at a URL, nodes have folders of their own
            source=source_digest(),
            decodings=self.decodings,
            climb=climb_of(plan),
        )

    def _tuner(self, scratch: str, callbacks: list[tune.Callback]) -> tune.Tuner:
        several = self.study.plan.base.resources.num_workers > 1
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(sys.maxsize)  # the searcher says how many run
        trainable = tune.with_resources(tune.with_parameters(Trial, job=self._job()), _where)
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=self.searcher,
                scheduler=self._scheduler(),
                num_samples=-1,  # until the searcher has no more
                reuse_actors=not several,
                trial_name_creator=lambda trial: str(trial.config["trial"]),
                trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name=f"tune-{int(time.time())}",
                storage_path=scratch,
                callbacks=callbacks,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # runs keep their own
                failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands trials out again
                verbose=0,
            ),
        )
