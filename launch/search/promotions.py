"""Which paused trials go on by now, as the ledger tells: nothing that was paid for is lost.

A trial that asha or hyperband passes over rests with its checkpoint. As others come to its rung it may be among the
best share of them after all, also in a search that is resumed, or is given more trials.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from speaq.study import results
from speaq.study.ledger import Entry, Event
from speaq.study.plan import Plan, length, max_steps

from .rungs import PAUSING, rungs_of

log = logging.getLogger(__name__)

Checkpoint = Callable[[str], object]  # trial → what is another value for each of its checkpoints; None: it has none


def state_of_stopped(plan: Plan) -> Event:
    """How a trial that the scheduler stopped is recorded: the median rule and pbt let none go on."""
    return "paused" if plan.settings.scheduler in PAUSING else "pruned"


class Promotions:
    """Follows the ledger's reports; knows at any time who deserves to go on."""

    def __init__(self, plan: Plan, entries: Mapping[str, Entry], checkpoint: Checkpoint) -> None:
        """Takes in the reports of earlier drivers. `entries` may grow."""
        training = plan.base.training
        self._plan, self._entries, self._checkpoint = plan, entries, checkpoint
        self._rungs = rungs_of(plan.settings, training.max_steps, training.eval_every)
        self._lost: set[str] = set()  # paused trials without a checkpoint, which has been said
        for entry in entries.values():
            for step in sorted(entry.reports):
                self.reported(entry, step)

    def reported(self, entry: Entry, step: int) -> None:
        """Takes in a report that the ledger has."""
        values = results.values(entry.reports[step], self._plan.objective)
        if self._rungs is not None and values is not None:
            share = step * length(self._plan) / max_steps(entry, self._plan)
            self._rungs.add(entry.id, share, values)

    def due(self) -> list[str]:
        """The paused trials that go on now, in this order. Says once of one that it cannot."""
        if self._rungs is None:
            return []
        paused = {trial for trial, entry in self._entries.items() if entry.state == "paused"} - self._lost
        found = self._rungs.promotable(paused) if paused else []
        for trial in found:
            if self._checkpoint(trial) is None:
                self._lost.add(trial)
                log.warning("trial %s deserves to go on, but its checkpoint is gone: it stays paused", trial)
        return [trial for trial in found if trial not in self._lost]
