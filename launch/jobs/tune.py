"""A search in a folder: study.yaml (all that was asked), ledger.jsonl (all that happened), trials/, and the results.

What its trials do is handed in as `Work`: they train on Ray (launch/jobs/on_ray.py), or decode stored predictions
(launch/jobs/predictions.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from speaq.files import atomic
from speaq.files.locks import Gone, Taken
from speaq.study import snapshot
from speaq.study.budget import parse
from speaq.study.changes import as_now, begins_with, found_data, with_features, with_start
from speaq.study.creation import check_images, data_digest, feasible_on
from speaq.study.extent import with_possible_trials, with_trials
from speaq.study.file import Address, Study, check_new, keep, read
from speaq.study.ledger import Entry, Ledger
from speaq.study.plan import Feasible, Plan

from ..cluster import connection
from ..report.png import write_results
from ..search import storage
from ..search.mirror import Mirror, opened
from ..store.workspace import Workspace
from .display import Display, silent
from .on_ray import OnRay


class Work(Protocol):
    """What the trials of a study do."""

    def search(
        self, study: Study, output: Path, ledger: Ledger, feasible: Feasible, mirror: Mirror | None = None
    ) -> Study:
        """Runs the trials that are left; returns the study, with fewer trials where its space has no more."""

    def write(self, output: Path, entries: Sequence[Entry], plan: Plan) -> None:
        """Writes results beside those of every search."""


def start(
    study: Study,
    output: Path,
    budget: str | None = None,
    url: str | None = None,
    *,
    display: Display = silent,
    here: Workspace = Workspace(),
) -> list[Entry]:
    """Runs a new study on Ray in `output`, which must be new or empty, until its budget is spent.

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
        return run(study, output, address, OnRay(budget, display, here), begins=True)


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
    display: Display = silent,
    here: Workspace = Workspace(),
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
    study = with_features(with_start(read(output / "study.yaml"), output, start), output)
    study = with_trials(study, trials)
    where = found_data(study, output, data)
    begins = begins_with(study, output, needed=_has_to_begin(study, output, here))
    study = as_now(study, output, where, data_digest(where), begins, force)
    return run(study, output, storage.again(study.storage, url, output), OnRay(budget, display, here))


def _has_to_begin(study: Study, folder: Path, here: Workspace) -> bool:
    """Whether a trial has yet to be asked for, or to come to its first checkpoint."""
    entries = snapshot.read(folder).entries
    without = (e for e in entries if not e.ended and here.checkpoint_of_trial(folder / "trials" / e.id) is None)
    return len(entries) < study.plan.trials or any(without)


def run(study: Study, output: Path, address: Address | None, work: Work, *, begins: bool = False) -> list[Entry]:
    """Runs what is left of a study and writes its results, also when it is interrupted. Returns all trials.

    Args:
        address: of the Optuna storage that mirrors it.
        begins: the study is new, its folder is made.
    """
    if begins:
        check_images(study)  # before anything is written
        output.mkdir(parents=True, exist_ok=True)
    with opened(address, study.plan) as mirror, contextlib.closing(Ledger(output / "ledger.jsonl")) as ledger:
        if begins:  # of two that begin in one folder the first alone gets as far as here
            check_new(output)
            write(study, output, address)
        ledger.check_objectives(study.plan.objective)
        feasible = feasible_on(study)
        study = with_possible_trials(study, ledger, feasible)
        keep(study, output)
        if mirror is not None:
            mirror.follow(ledger.entries.values())
        try:
            study = work.search(study, output, ledger, feasible, mirror)
            keep(study, output)
        except BaseException:
            with contextlib.suppress(OSError, Gone, Taken):  # has been said already; a resume writes them
                ledger.lock.check()
                _write_results(study.plan, output, ledger, work)
            raise
        return _write_results(study.plan, output, ledger, work)


def _write_results(plan: Plan, output: Path, ledger: Ledger, work: Work) -> list[Entry]:
    """Of all trials, where there are any; returns them."""
    entries = list(ledger.entries.values())
    if entries:
        write_results(output, entries, plan)
        work.write(output, entries, plan)
    return entries
