"""How many trials a study has: asked for, possible in its space, left."""

from __future__ import annotations

import dataclasses
import logging

from speaq.study.file import Study
from speaq.study.ledger import Ledger
from speaq.study.plan import Feasible, most_trials

log = logging.getLogger(__name__)


def with_trials(study: Study, trials: int | None) -> Study:
    """The study with another number of trials in all, where one is given."""
    if trials is None or trials == study.plan.trials:
        return study
    log.info("trials in all: %d until now, %d from now on", study.plan.trials, trials)
    return dataclasses.replace(study, plan=study.plan.with_trials(trials))


def with_possible_trials(study: Study, ledger: Ledger, feasible: Feasible = lambda config: None) -> Study:
    """The study with no more trials than there can be, and no fewer than there are.

    Logs a warning where that is another number than was asked for.
    """
    plan, known = study.plan, {entry.digest for entry in ledger.entries.values()}
    possible = most_trials(plan, known, feasible)
    if possible < plan.trials:
        included = f", {' and '.join(plan.references)} included" if plan.references else ""
        log.warning(
            "the space holds %d different trials%s: the search ends after them, not after the %d asked for",
            *(possible, included, plan.trials),
        )
    return dataclasses.replace(study, plan=plan.with_trials(max(possible, len(ledger.entries))))


def as_exhausted(study: Study, ledger: Ledger) -> Study:
    """The study with the trials that there are, of a space in which no other was found."""
    asked, there = study.plan.trials, len(ledger.entries)
    log.warning("the space has no other trial: the search ends after %d of %d", there, asked)
    return dataclasses.replace(study, plan=study.plan.with_trials(there))


def say_nothing_is_left(study: Study, ledger: Ledger, feasible: Feasible = lambda config: None) -> None:
    """Logs that all trials of the study have ended, and whether there could be more."""
    there = len(ledger.entries)
    known = {entry.digest for entry in ledger.entries.values()}
    more = most_trials(study.plan.with_trials(there + 1), known, feasible) > there
    remedy = "--trials asks for more" if more else "the space has no other"
    log.info("all %d trials have ended, nothing is left to do; %s", there, remedy)
