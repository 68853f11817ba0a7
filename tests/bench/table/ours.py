"""The product's own searcher and scheduler as a player: what `speaq tune` does, without trainings."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler  # noqa: TID251
from ray.tune.search import Searcher  # noqa: TID251

from launch.search import messages
from launch.search.messages import Finished, Report
from launch.search.scheduler import make_scheduler
from launch.search.searcher import Search, config_of
from speaq.study.ledger import Ledger
from speaq.study.plan import Feasible, Plan, compared
from tests.bench.table.play import Job, Metrics


class Ours:
    """Drives `Search` and its scheduler as Tune does."""

    def __init__(self, plan: Plan, feasible: Feasible) -> None:
        """Begins a study in a temporary folder."""
        memory = Path("/dev/shm")  # where there is one: a disk would be waited for at every row of the ledger
        self._folder = tempfile.TemporaryDirectory(prefix="speaq-table-", dir=memory if memory.is_dir() else None)
        folder = Path(self._folder.name)
        self._ledger = Ledger(folder / "ledger.jsonl")
        self._search = Search(plan, self._ledger, feasible=feasible, checkpoint=lambda trial: trial)
        training = plan.base.training
        self._every, self._metric = training.eval_every, compared(plan)
        self._scheduler = make_scheduler(plan.settings, training.max_steps, training.eval_every, folder / "trials")
        self._ids = map(str, itertools.count())
        self._plan = plan
        self._trials: dict[str, Any] = {}  # Tune's id → what the scheduler sees of it

    def close(self) -> None:
        """Removes the study."""
        self._ledger.close()
        self._folder.cleanup()

    def next(self) -> Job | None:
        """As Tune asks: None where the search has nothing now, or nothing more."""
        key = next(self._ids)
        told = self._search.suggest(key)
        if told is None or told == Searcher.FINISHED:
            return None
        self._trials[key] = SimpleNamespace(trial_id=key, config=told)
        self._scheduler.on_trial_add(None, self._trials[key])
        self._search.started(key)
        entry = self._search.entry(key)
        config = config_of(self._plan, entry)
        values = entry.values if entry.values is not None else self._plan.space.extract(self._plan.base, config)
        assert values is not None, entry.label
        return Job(key, entry.id, values)

    def reported(self, job: Job, evaluation: int, metrics: Metrics) -> bool:
        """The scheduler judges; a trial that it stops is complete for the searcher."""
        result = self._result(evaluation, metrics)
        if self._scheduler.on_trial_result(None, self._trials[job.key], result) == TrialScheduler.CONTINUE:
            self._search.on_trial_result(job.key, result)
            return True
        self._search.on_trial_complete(job.key, result)
        return False

    def finished(self, job: Job, evaluation: int, metrics: Metrics) -> None:
        """The last evaluation, then the trial's own end."""
        last = self._result(evaluation, metrics)
        self._scheduler.on_trial_result(None, self._trials[job.key], last)
        self._search.on_trial_result(job.key, last)
        step = evaluation * self._every
        result = messages.final_result(last, Finished(dict(metrics), step, step, float(evaluation)))
        self._scheduler.on_trial_complete(None, self._trials[job.key], result)
        self._search.on_trial_complete(job.key, result)

    def _result(self, evaluation: int, metrics: Metrics) -> dict[str, Any]:
        report = Report(evaluation * self._every, dict(metrics), float(evaluation))
        return messages.report_result(report, metrics[self._metric])
