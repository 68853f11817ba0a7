"""A search is copied into an Optuna storage while it runs: each trial of the ledger, as the ledger tells it.

A paused trial is a pruned one there, which Optuna never reopens: a promotion makes another one, with the same user
attribute `trial`, and `promotions`. The newest is the one that counts.

The ledger is the truth. A thread writes the copy, so that the search never waits for a database and goes on without
one. What could not be written is written at a later event, at the end, or on resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterable, Iterator

from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial

from speaq.study.file import Address
from speaq.study.ledger import Entry
from speaq.study.plan import Plan

from .optuna_study import PROMOTIONS, TRIAL, bring_up, open_study, optuna_trial
from .storage import connect, masked, refusal

log = logging.getLogger(__name__)

LAST_SECONDS = 30.0  # that the end of a search waits for its mirror


@contextlib.contextmanager
def opened(address: Address | None, plan: Plan) -> Iterator[Mirror | None]:
    """A mirror for the time of the block; None without an address. Raises StorageError."""
    if address is None:
        yield None
        return
    with contextlib.closing(Mirror(address, plan)) as mirror:
        yield mirror


class Mirror:
    """Listens to the search. One driver at a time writes to a study: the one that has locked the ledger."""

    def __init__(self, address: Address, plan: Plan) -> None:
        """Opens the storage and the study in it, to see that both can be written. Raises StorageError."""
        self._address, self._plan = address, plan
        self._storage: BaseStorage | None = None
        self._study_id = 0
        self._known: dict[str, FrozenTrial] | None = None  # our id → as the storage had it; None: not read yet
        self._behind: dict[str, Entry] = {}  # what the storage does not know yet, in the order of asking
        self._lost = self._foreign = False
        self._changed = threading.Condition()  # guards what follows, and _behind
        self._fresh = self._busy = self._closing = False
        try:
            self._open()
        except Exception as error:
            raise refusal(address, error) from error
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def follow(self, entries: Iterable[Entry]) -> None:
        """Has `entries` written as they are now, by the thread. The caller has locked the ledger."""
        copies = {entry.id: _copy(entry) for entry in entries}
        with self._changed:
            self._behind.update(copies)
            self._fresh = True
            self._changed.notify_all()

    def __call__(self, entry: Entry, event: str) -> None:
        self.follow([entry])

    def settle(self) -> bool:
        """Waits until the thread has written what it can; returns whether nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._fresh and not self._busy, LAST_SECONDS)
            return not self._behind

    def close(self) -> None:
        """Writes what is left, where the storage lets it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(LAST_SECONDS)
        if self._behind:
            left = f"{len(self._behind)} trials, from {next(iter(self._behind))} on"
            log.warning("storage %s: lacks the last state of %s; a resume brings it", masked(self._address.url), left)
        if not self._thread.is_alive():
            self._drop()

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._fresh or self._closing)
                closing, self._fresh, self._busy = self._closing, False, True
            try:
                self._catch_up()
            except Exception as error:  # of any driver: no storage may end a search
                self._lose(error)

    def _catch_up(self) -> None:
        if not self._behind:
            return
        storage = self._storage or self._open()
        if self._known is None:
            self._known = self._read(storage)
        while (entry := self._next()) is not None:
            self._bring(storage, entry)
            with self._changed:
                if self._behind[entry.id] is entry:  # else there is news of it already
                    del self._behind[entry.id]
        if self._lost:
            self._lost = False
            log.info("storage %s: has caught up", masked(self._address.url))

    def _next(self) -> Entry | None:
        with self._changed:
            return next(iter(self._behind.values()), None)

    def _open(self) -> BaseStorage:
        storage = connect(self._address)
        open_study(self._plan, storage, self._address.study)
        self._study_id = storage.get_study_id_from_name(self._address.study)
        self._storage = storage
        return storage

    def _read(self, storage: BaseStorage) -> dict[str, FrozenTrial]:
        """Our id → the newest trial that the storage has: it may have taken one without our hearing of it."""
        trials = storage.get_all_trials(self._study_id, deepcopy=False)
        return {trial.user_attrs[TRIAL]: trial for trial in trials if TRIAL in trial.user_attrs}

    def _lose(self, error: Exception) -> None:
        if not self._lost:
            log.warning("%s; the search goes on, and the storage is brought up later", refusal(self._address, error))
        self._lost = True
        self._drop()

    def _drop(self) -> None:
        """Forgets the connection and what was read by it."""
        storage, self._storage, self._known = self._storage, None, None
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()

    def _bring(self, storage: BaseStorage, entry: Entry) -> None:
        """Writes what the storage lacks of `entry`. How it ended comes last: after that nothing can be written."""
        assert self._known is not None
        wanted = optuna_trial(entry, self._plan)
        found = self._known.get(entry.id)
        if found is not None and not found.state.is_finished():  # it may have ended since, by our own hand too
            trial = storage.get_trial_id_from_study_id_trial_number(self._study_id, found.number)
            found = storage.get_trial(trial)
        if found is None or _is_older(found, entry):  # all of it at once
            made = storage.create_new_trial(self._study_id, wanted)
            self._known[entry.id] = storage.get_trial(made)
        elif found.state.is_finished():
            self._compare(entry, found, wanted)
        else:
            bring_up(storage, trial, found, wanted)

    def _compare(self, entry: Entry, found: FrozenTrial, wanted: FrozenTrial) -> None:
        """Complains, once, of a trial that has ended in another way than ours did."""
        same = (found.state, found.params, found.values) == (wanted.state, wanted.params, wanted.values)
        if not same and not self._foreign:
            self._foreign = True
            text = "storage %s: trial %s ended there otherwise than here, and stays so: is %s a copy of another study?"
            log.warning(text, masked(self._address.url), entry.id, self._address.study)


def _is_older(found: FrozenTrial, entry: Entry) -> bool:
    """Whether the storage has the trial as it was before a promotion, and closed."""
    return found.state.is_finished() and found.user_attrs.get(PROMOTIONS, 0) < entry.promotions


def _copy(entry: Entry) -> Entry:
    """The entry as it is now: the search goes on writing into it."""
    return dataclasses.replace(entry, reports=dict(entry.reports))
