"""The searcher that Ray Tune asks: hands out unfinished trials, then the references, then what the sampler proposes.

Every answer is in the ledger before Tune sees it; on resume the sampler is rebuilt from there.
"""

from __future__ import annotations

import json
import logging
import math
import random
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from launch.search.population import next_child
from launch.search.sampler import Sampler
from speaq import config as configs
from speaq.config import Config, ConfigError
from speaq.evaluation.protocol import protocol_name
from speaq.space import LOSSES
from speaq.space.parameters import Plain
from speaq.study.budget import Budget, BudgetSpent
from speaq.study.errors import Halted, StorageLost
from speaq.study.ledger import Entry, Event, Ledger, LedgerError, digest, digests, known_as
from speaq.study.plan import (
    MEMORY,
    Feasible,
    Listener,
    Plan,
    applied,
    compared,
    difference,
    excess,
    is_countable,
    max_steps,
)
from speaq.training.callbacks import Metrics, is_number

log = logging.getLogger(__name__)

MAX_DEATHS = 2  # times that a trial whose process dies is started again from one and the same checkpoint
OUT_OF_MEMORY = "OutOfMemory"  # how the reason of a trial begins that the device was too small for
MAX_REPEATS = 20  # proposals in a row that are known or impossible before one is taken of those that are left
MAX_ATTEMPTS = 200  # proposals in a row that are known or impossible before a space that is not counted is exhausted
DIED = "the process of the trial died (killed, out of memory, or its node was lost)"


class Search(Searcher):
    """Ray's side: trials by Tune's ids. Ours are `0000`, `0001`, … in the order of asking."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        listener: Listener = lambda entry, event: None,
        budget: Budget | None = None,
        places: Callable[[], int] = lambda: sys.maxsize,
        checkpoint: Callable[[str], object] = lambda trial: None,
        feasible: Feasible = lambda config: None,
    ) -> None:
        """
        Args:
            places: trials that the cluster can run at once now; asked again and again, since nodes come and go.
            checkpoint: of a trial, what tells its last checkpoint from those before.
            feasible: raises ConfigError or DataError for a config that the data cannot carry, which is not tried.
        """
        super().__init__(metric="value", mode="max")
        self._budget, self._places, self._checkpoint, self._feasible = budget, places, checkpoint, feasible
        self._plan, self._ledger, self._listener = plan, ledger, listener
        self._sampler = Sampler(plan.space, plan.base, plan.settings, len(plan.objective), len(ledger.entries))
        self._numbers: dict[str, int] = {}  # our id → number of the Optuna trial
        self._ids: dict[str, str] = {}  # Tune's id → ours
        self._running: set[str] = set()  # Tune's ids of trials that have not ended
        self._waiting: list[Entry] = []
        self._is_countable = is_countable(plan)
        self._points: list[dict[str, Plain]] | None = None  # of a space that is countable, not looked at yet
        self.exhausted = False  # whether the space had no other trial, though more were wanted
        self._deaths: dict[str, tuple[object, int]] = {}  # our id → its checkpoint then, deaths since that was written
        self.error: StorageLost | Halted | None = None  # Tune swallows what is raised at a trial's end
        for entry in ledger.entries.values():
            self._take_over(entry)

    def __deepcopy__(self, memo: dict[int, Any]) -> Search:
        return self  # Tune copies its configuration; there is one search

    def __reduce__(self) -> tuple[type[_Stub], tuple[()]]:
        return _Stub, ()  # Tune pickles it into its own state, which nobody reads: the ledger is the truth

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is written as things happen."""

    @property
    def remaining(self) -> int:
        """Trials still to be run to an end."""
        ended = sum(entry.ended for entry in self._ledger.entries.values())
        return max(self._plan.trials, len(self._ledger.entries)) - ended

    def entry(self, tune_id: str) -> Entry:
        return self._ledger.entries[self._ids[tune_id]]

    @property
    def spent(self) -> bool:
        """Whether the study has used up its budget."""
        return self._budget is not None and self._budget.is_spent(self._ledger, self._plan.base.resources)

    def halt(self, error: Exception) -> None:
        """Ends the search at its next step: it cannot go on where it is, and can be resumed."""
        self.error = self.error or Halted(f"{error}; --resume goes on")

    def suggest(self, trial_id: str) -> Any:
        if self.spent:
            return Searcher.FINISHED
        if self._running and len(self._running) >= self._places():
            return None  # Tune asks again
        entry = self._waiting.pop(0) if self._waiting else self._new()
        if entry is None:  # a running trial may die, and is then handed out again
            self.exhausted = len(self._ledger.entries) < self._plan.trials
            return None if self._running else Searcher.FINISHED
        self._ids[trial_id] = entry.id
        self._running.add(trial_id)
        return {
            "trial": entry.id,
            "protected": entry.label is not None,
            "max_steps": max_steps(entry, self._plan),
            "start": entry.start,
            "config": configs.to_dict(self._plan.placed(self.config_of(entry))),
        }

    def started(self, tune_id: str) -> None:
        """The trial's process runs (again)."""
        entry = self.entry(tune_id)
        self._append("running", entry.id, attempt=entry.attempts + 1)
        self._listener(entry, "running")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._record_report(self.entry(trial_id), result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        entry = self.entry(trial_id)
        if trial_id not in self._running:  # Tune may tell twice
            return
        self._running.remove(trial_id)
        outcome = json.loads((result or {}).get("outcome", "{}"))
        if error or not result:
            self._died(entry, DIED)
        elif "died" in outcome:
            self._died(entry, outcome["died"])
        elif "again" in outcome:
            log.warning("trial %s: %s; it is tried again", entry.id, outcome["again"])
            self._waiting.append(entry)
        elif "halted" in outcome:
            self.error = self.error or Halted(f"trial {entry.id}: {outcome['halted']}; --resume goes on")
        elif "failure" in outcome:
            out_of_memory = outcome["failure"].startswith(OUT_OF_MEMORY)
            judged = "infeasible" if out_of_memory and MEMORY in self._plan.settings.constraints else "failed"
            self._end(entry, judged, reason=outcome["failure"])
        elif "metrics" in outcome:
            self._end(entry, *self._judge(outcome["metrics"], outcome.get("cost", {})), **outcome)
        else:
            self._record_report(entry, result)
            self._end(entry, "pruned", **_best_report(entry, self._plan.base.training.best_metric))

    def _died(self, entry: Entry, reason: str) -> None:
        """Another attempt from the last checkpoint, unless the trial dies again and again before the next one."""
        then, deaths = self._deaths.get(entry.id, (None, 0))
        now = self._checkpoint(entry.id)
        deaths = deaths + 1 if now == then else 1
        self._deaths[entry.id] = now, deaths
        if deaths > MAX_DEATHS:
            self._end(entry, "failed", reason=reason)
        else:
            log.warning("trial %s: %s; it is tried again", entry.id, reason)
            self._waiting.append(entry)

    def config_of(self, entry: Entry) -> Config:
        """The config of a trial of the ledger. Raises LedgerError where today's code makes another one of it."""
        config = configs.apply(self._plan.base, entry.overrides, f"trial {entry.id}")
        if entry.digest not in digests(config):
            raise LedgerError(f"trial {entry.id}: its config is no longer what it was (other code or study.yaml)")
        return config

    def _append(self, event: Event, trial: str, **fields: Any) -> None:
        if self.error is not None:
            raise self.error
        try:
            self._ledger.append(event, trial, **fields)
        except StorageLost as error:
            self.error = error
            raise

    def _judge(self, metrics: Metrics, cost: Metrics) -> tuple[str, str | None]:
        """How a trial that came to its end is recorded, and why where it is not finished."""
        values = {name: metrics.get(name) for name in self._plan.objective}
        limits = self._plan.settings.constraints
        missing = [n for n, v in (values | {n: cost.get(n) for n in limits}).items() if not is_number(v)]
        if missing:
            return "failed", f"{', '.join(missing)} is not a number"
        found = excess(self._plan, cost)
        above = [f"{name} {cost[name]:g} is above {limits[name]:g}" for name, by in found.items() if by > 0]
        return ("infeasible", "; ".join(above)) if above else ("finished", None)

    def _record_report(self, entry: Entry, result: Mapping[str, Any]) -> None:
        if "report" not in result:
            return
        report = json.loads(result["report"])
        step, metrics = report["step"], report["metrics"]
        if step in entry.reports:  # a trial that goes on tells its last evaluation again
            return
        self._deaths.pop(entry.id, None)
        self._append("reported", entry.id, step=step, metrics=metrics, seconds=report["seconds"])
        if entry.id in self._numbers and is_number(result["value"]):
            self._sampler.report(self._numbers[entry.id], step, result["value"])
        self._listener(entry, "reported")

    def _end(self, entry: Entry, state: str, reason: str | None = None, **fields: Any) -> None:
        self._append(state, entry.id, reason=reason, **fields)  # type: ignore[arg-type]
        if entry.id in self._numbers:
            self._sampler.tell(
                self._numbers.pop(entry.id), state, self._objective(entry), excess(self._plan, entry.cost)
            )
        self._listener(entry, state)

    def _objective(self, entry: Entry) -> list[float] | None:
        values = [entry.metrics.get(name) for name in self._plan.objective]
        numbers = [value for value in values if is_number(value)]
        return numbers if len(numbers) == len(values) else None

    def _take_over(self, entry: Entry) -> None:
        """A trial of an earlier driver: told to the sampler where it ended, else handed out again."""
        if not entry.ended:
            self._waiting.append(entry)
        if entry.values is None:
            return
        if entry.ended:
            values = {step: metrics.get(compared(self._plan)) for step, metrics in entry.reports.items()}
            steps = {step: value for step, value in values.items() if is_number(value)}
            above = excess(self._plan, entry.cost)
            self._sampler.replay(entry.values, entry.state, self._objective(entry), steps, above)
        else:
            self._numbers[entry.id], _ = self._sampler.adopt(entry.values)

    def _new(self) -> Entry | None:
        """The next trial, in the ledger; None when the study has all it wants or the space has no more."""
        if len(self._ledger.entries) >= self._plan.trials:
            return None
        asked = {entry.label for entry in self._ledger.entries.values()}
        for label, config in self._plan.references.items():
            if label not in asked:
                return self._ask_reference(label, config)
        known = {entry.digest for entry in self._ledger.entries.values()}
        if self._plan.settings.scheduler == "pbt" and (entry := self._new_child(known)) is not None:
            return entry
        return self._proposed(known) or self._left_over(known)

    def _proposed(self, known: Collection[str]) -> Entry | None:
        """What the sampler asks for, of which no trial is known yet; None after so many proposals that are no news."""
        for _ in range(MAX_REPEATS if self._is_countable else MAX_ATTEMPTS):
            proposal = self._sampler.ask()
            if proposal is None:
                break
            number, values = proposal
            config = applied(self._plan, values, self._feasible)
            if config is not None and known_as(config, known) is None:
                return self._ask(config, None, values, number)
            self._sampler.tell(number, "failed", None)
        return None

    def _left_over(self, known: Collection[str]) -> Entry | None:
        """A point of a space that can be counted of which no trial is known: samplers come back to the same ones."""
        if not self._is_countable:
            return None
        if self._points is None:
            self._points = list(self._plan.space.points(self._plan.base))
            random.Random(self._plan.settings.seed).shuffle(self._points)
        while self._points:
            values = self._points.pop()
            config = applied(self._plan, values, self._feasible)
            if config is not None and known_as(config, known) is None:
                number, values = self._sampler.adopt(values)
                return self._ask(config, None, values, number)
        return None

    def _new_child(self, known: Collection[str]) -> Entry | None:
        """Of one of the best trials, in the place of one that was stopped; None where no place is free."""
        plan, entries = self._plan, list(self._ledger.entries.values())
        trials = self._ledger.path.parent / "trials"
        for attempt in range(MAX_ATTEMPTS):
            child = next_child(entries, trials, plan.base, plan.space, compared(plan), attempt)
            if child is None:
                return None
            changes = {**child.parent.overrides, LOSSES + "schedule": child.schedule}
            try:
                config = configs.apply(plan.base, changes, "trial")
            except ConfigError as error:
                log.debug("%s", error)
                continue
            if known_as(config, known) is None:
                start = {"trial": child.parent.id, "step": child.step, "instead_of": child.instead_of}
                return self._ask(config, None, None, None, start)
        return None

    def _ask_reference(self, label: str, config: Config) -> Entry:
        values = self._plan.space.extract(self._plan.base, config)
        number = None if values is None else self._sampler.adopt(values)[0]
        return self._ask(config, label, values, number)

    def _ask(
        self,
        config: Config,
        label: str | None,
        values: dict[str, Plain] | None,
        number: int | None,
        start: Mapping[str, Any] | None = None,
    ) -> Entry:
        trial = f"{1 + max(map(int, self._ledger.entries), default=-1):04d}"  # a repaired ledger may lack some
        self._append(
            "asked",
            trial,
            digest=digest(config),
            label=label,
            values=values,
            overrides=difference(self._plan.base, config),
            seed=config.seed,
            protocol=protocol_name(config.evaluation),
            **({} if start is None else {"start": start}),
        )
        if number is not None:
            self._numbers[trial] = number
        entry = self._ledger.entries[trial]
        self._listener(entry, "asked")
        return entry


class _Stub:
    """What a pickled Search becomes."""


class Starts(tune.Callback):
    """Tells the search when a trial's process starts, and ends it when the budget is spent or it cannot go on."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._search.started(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._search.error is not None:
            raise self._search.error
        if self._search.spent:
            raise BudgetSpent


def _best_report(entry: Entry, metric: str) -> dict[str, Any]:
    """Of a trial that was stopped: the evaluation that its best checkpoint comes from."""
    if not entry.reports:
        return {}
    step = max(entry.reports, key=lambda s: _number(entry.reports[s].get(metric)))
    return {"metrics": entry.reports[step], "best_step": step, "step": max(entry.reports)}


def _number(value: float | None) -> float:
    return value if is_number(value) else -math.inf
