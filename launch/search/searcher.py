"""The searcher that Ray Tune asks for trials: those that have not ended go on first, then paused ones that have come to
deserve it, then come new ones.

Every answer is in the ledger before Tune sees it, so that a search that is resumed is rebuilt from there.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

from ray import tune
from ray.tune.search import Searcher

from speaq import config as configs
from speaq.config import Config
from speaq.evaluation.protocol import protocol_name
from speaq.study.budget import Budget, BudgetSpent
from speaq.study.errors import Halted, StorageLost
from speaq.study.ledger import Entry, Event, Ledger, LedgerError, digest, digests
from speaq.study.plan import MEMORY, Feasible, Listener, Plan, difference, excess, ladder_of, max_steps
from speaq.training.callbacks import is_number

from . import messages
from .deaths import MAX_DEATHS as MAX_DEATHS
from .deaths import Deaths
from .messages import Crowded, Died, Displaced, Failed, Finished, Halt, Outcome, Stopped, TooLarge
from .placement import Anywhere
from .promotions import Checkpoint, Promotions, state_of_stopped
from .proposals import Proposal, Proposals

log = logging.getLogger(__name__)


class Search(Searcher):
    """The search as Ray Tune knows it. Tune names trials by ids of its own; ours are `0000`, `0001`, … as asked for."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        listeners: Iterable[Listener] = (),
        *,
        budget: Budget | None = None,
        places: Callable[[], int] = lambda: sys.maxsize,
        checkpoint: Checkpoint = lambda trial: None,
        promotions: Promotions | None = None,
        feasible: Feasible = lambda config: None,
        url: str | None = None,
        placement: Anywhere = Anywhere(),
    ) -> None:
        """
        Args:
            listeners: hear of every row of the ledger, in this order.
            places: trials that the cluster can run at once now; asked again and again, since nodes come and go.
            checkpoint: by which a trial that died is known to have got on, and without which a paused one stays so.
            promotions: of the ledger, where they have been looked at already.
            feasible: raises ConfigError or DataError for a config that the data cannot carry, which is not tried.
            url: of the trials, where the search is at one.
            placement: says where a trial goes.
        """
        super().__init__(metric="value", mode="max")
        self._budget, self._places = budget, places
        self._plan, self._ledger, self.listeners = plan, ledger, list(listeners)
        self.proposals = Proposals(plan, ledger, feasible, url)
        self._promotions = promotions or Promotions(plan, ledger.entries, checkpoint)
        self._placement = placement
        self._ids: dict[str, str] = {}  # Tune's id → ours
        self._running: set[str] = set()  # Tune's ids of trials that have not ended
        self._waiting = [entry for entry in ledger.entries.values() if not entry.ended]  # to be handed out (again)
        self.exhausted = False  # whether the space had no other trial, though more were wanted
        self._deaths = Deaths(checkpoint)
        self.error: StorageLost | Halted | None = None  # Tune swallows what is raised at a trial's end

    def __deepcopy__(self, memo: dict[int, Any]) -> Search:
        return self  # Tune copies its configuration; there is one search

    def __reduce__(self) -> tuple[type[_Stub], tuple[()]]:
        return _Stub, ()  # Tune pickles it into its own state, which nobody reads: the ledger is the truth

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is written as things happen."""

    @property
    def remaining(self) -> int:
        """Trials still to be run to an end, paused ones that go on included."""
        ended = sum(entry.ended for entry in self._ledger.entries.values())
        return max(self._plan.trials, len(self._ledger.entries)) - ended + len(self._promotions.due())

    def entry(self, tune_id: str) -> Entry:
        """The trial that Tune knows by another id."""
        return self._ledger.entries[self._ids[tune_id]]

    @property
    def spent(self) -> bool:
        """Whether the study has used up its budget."""
        return self._budget is not None and self._budget.is_spent(self._ledger, self._plan.base.resources)

    def halt(self, error: Exception) -> None:
        """Ends the search at its next step: it cannot go on where it is, and can be resumed."""
        self.error = self.error or Halted(f"{error}; --resume goes on")

    def suggest(self, trial_id: str) -> Any:
        """The next trial for Tune: what it runs with; None to be asked again later, FINISHED where there is no more."""
        if self.spent:
            return Searcher.FINISHED
        if self._running and (self._placement.is_kept_free or len(self._running) >= self._places()):
            return None  # Tune asks again
        entry = self._waiting.pop(0) if self._waiting else self._promoted() or self._ask()
        if entry is None:  # a running trial may die, and is then handed out again
            self.exhausted = len(self._ledger.entries) < self._plan.trials
            return None if self._running else Searcher.FINISHED
        self._ids[trial_id] = entry.id
        self._running.add(trial_id)
        return _suggestion(self._plan, entry, config_of(self._plan, entry)) | self._placement.place(entry.id)

    def started(self, tune_id: str) -> None:
        """The trial's process runs (again)."""
        entry = self.entry(tune_id)
        self._append("running", entry.id, attempt=entry.attempts + 1, **self._placement.began(entry.id))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tune has received an evaluation."""
        self._record_report(self.entry(trial_id), result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's process has ended, or was stopped, with this last result."""
        if trial_id not in self._running:  # Tune may tell twice
            return
        self._running.remove(trial_id)
        outcome = messages.outcome_of(result, died=error)
        if isinstance(outcome, Stopped):
            self._record_report(self.entry(trial_id), result or {})
        self._take(self.entry(trial_id), outcome)

    def _take(self, entry: Entry, outcome: Outcome) -> None:
        self._placement.ended(entry.id)
        match outcome:
            case Finished():
                state, why = _judged(self._plan, outcome)
                self._end(entry, state, why, **outcome.row())
            case Stopped():
                best = _best_report(entry, self._plan)
                self._end(entry, state_of_stopped(self._plan), None, **best)
            case Failed(reason):
                self._end(entry, "failed", reason)
            case TooLarge(reason):
                self._end(entry, "infeasible" if MEMORY in self._plan.settings.constraints else "failed", reason)
            case Died(reason):
                self._died(entry, reason)
            case Displaced(reason):
                self._try_again(entry, reason)
            case Crowded(reason):
                self._placement.give_own_gpu(entry.id)
                self._try_again(entry, f"{reason}, on a GPU that it shares")
            case Halt(reason):
                self.error = self.error or Halted(f"trial {entry.id}: {reason}; --resume goes on")
            case _:
                assert_never(outcome)

    def _died(self, entry: Entry, reason: str) -> None:
        """Another attempt from the last checkpoint, unless the trial dies again and again before the next one."""
        if self._deaths.count(entry.id) > MAX_DEATHS:
            self._end(entry, "failed", reason)
        else:
            self._try_again(entry, reason)

    def _try_again(self, entry: Entry, reason: str) -> None:
        log.warning("trial %s: %s; it is tried again", entry.id, reason)
        self._waiting.append(entry)

    def _append(self, event: Event, trial: str, **fields: Any) -> None:
        if self.error is not None:
            raise self.error
        try:
            self._ledger.append(event, trial, **fields)
        except StorageLost as error:
            self.error = error
            raise
        for listener in self.listeners:
            listener(self._ledger.entries[trial], event)

    def _record_report(self, entry: Entry, result: Mapping[str, Any]) -> None:
        report = messages.report_of(result)
        if report is None or report.step in entry.reports:  # a trial that goes on tells its last evaluation again
            return
        self._deaths.forget(entry.id)
        self._append("reported", entry.id, step=report.step, metrics=report.metrics, seconds=report.seconds)
        self._promotions.reported(entry, report.step)

    def _end(self, entry: Entry, state: Event, reason: str | None, **fields: Any) -> None:
        self._append(state, entry.id, reason=reason, **fields)
        self.proposals.ended(entry)

    def _promoted(self) -> Entry | None:
        """A paused trial that goes on; None where none deserves it."""
        for trial in self._promotions.due()[:1]:
            self._append("promoted", trial)
            self.proposals.reopened()
            return self._ledger.entries[trial]
        return None

    def _ask(self) -> Entry | None:
        """A new trial, in the ledger; None where there is no other."""
        proposal = self.proposals.next()
        if proposal is None:
            return None
        trial = f"{1 + max(map(int, self._ledger.entries), default=-1):04d}"  # a repaired ledger may lack some
        self._append("asked", trial, **_row(self._plan, proposal))
        self.proposals.asked(trial, proposal)
        return self._ledger.entries[trial]


class _Stub:
    """What a pickled Search becomes."""


class Starts(tune.Callback):
    """Tells the search when a trial's process starts, and ends it when the budget is spent or it cannot go on."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune has started the process of a trial."""
        self._search.started(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raises what the search cannot go on for, BudgetSpent where it has cost enough."""
        if self._search.error is not None:
            raise self._search.error
        if self._search.spent:
            raise BudgetSpent


def config_of(plan: Plan, entry: Entry) -> Config:
    """The config of a trial of the ledger. Raises LedgerError where today's code makes another one of it."""
    config = configs.apply(plan.base, entry.overrides, f"trial {entry.id}")
    if entry.digest not in digests(config):
        raise LedgerError(f"trial {entry.id}: its config is no longer what it was (other code or study.yaml)")
    return config


def _judged(plan: Plan, done: Finished) -> tuple[Event, str | None]:
    """How a trial that came to its end is recorded, and why where it is not finished."""
    values = {name: done.metrics.get(name) for name in plan.objective}
    limits = plan.settings.constraints
    missing = [n for n, v in (values | {n: done.cost.get(n) for n in limits}).items() if not is_number(v)]
    if missing:
        return "failed", f"{', '.join(missing)} is not a number"
    found = excess(plan, done.cost)
    above = [f"{name} {done.cost[name]:g} is above {limits[name]:g}" for name, by in found.items() if by > 0]
    return ("infeasible", "; ".join(above)) if above else ("finished", None)


def _suggestion(plan: Plan, entry: Entry, config: Config) -> dict[str, Any]:
    """What Tune runs a trial with."""
    return {
        "trial": entry.id,
        "protected": entry.label is not None,
        "max_steps": max_steps(entry, plan),
        "start": entry.start,
        "config": configs.to_dict(plan.placed(config)),
    }


def _row(plan: Plan, proposal: Proposal) -> dict[str, Any]:
    """What the ledger says of a new trial."""
    row = {
        "digest": digest(proposal.config),
        "label": proposal.label,
        "values": proposal.values,
        "overrides": difference(plan.base, proposal.config),
        "seed": proposal.config.seed,
        "protocol": protocol_name(proposal.config.evaluation),
    }
    said = {"start": proposal.start, "origin": proposal.origin}
    return row | {name: value for name, value in said.items() if value is not None}


def _best_report(entry: Entry, plan: Plan) -> dict[str, Any]:
    """Of a trial that was stopped: the evaluation that its best checkpoint comes from, of its last training."""
    if not entry.reports:
        return {}
    ladder, metric = ladder_of(plan), plan.base.training.best_metric
    last = None if ladder is None else ladder.kind(max(entry.reports))
    steps = [step for step in entry.reports if ladder is None or ladder.kind(step) == last]
    step = max(steps, key=lambda s: _number(entry.reports[s].get(metric)))
    return {"metrics": entry.reports[step], "best_step": step, "step": max(entry.reports)}


def _number(value: float | None) -> float:
    return value if is_number(value) else -math.inf
