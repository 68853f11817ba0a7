"""A study as its folder tells it now; a search that runs is not disturbed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from speaq.evaluation.protocol import common_protocol
from speaq.files.locks import holder
from speaq.study import file
from speaq.study.file import Study
from speaq.study.ledger import Entry, Ledger, read_rows
from speaq.study.plan import Plan

FEATURES = "features"  # in a trial's folder: its run from stored features, where the search has a ladder


@dataclass(frozen=True)
class Snapshot:
    """A study as its folder tells it now."""

    folder: Path
    study: Study
    entries: list[Entry]
    active: bool  # a search is working on it
    wall_seconds: float  # with a driver at work

    @property
    def plan(self) -> Plan:
        """What is searched."""
        return self.study.plan

    @property
    def protocol(self) -> str | None:
        """How all metrics are counted. Raises ConfigError where trials differ in it."""
        return common_protocol(entry.protocol for entry in self.entries)

    def trial_folder(self, entry: Entry) -> Path:
        """The folder of a trial, which is there once the trial has begun."""
        return self.folder / "trials" / entry.id

    def run_folder(self, entry: Entry) -> Path:
        """The folder of the run that a trial is at: its own, or that of its run from features until another begins."""
        trial = self.trial_folder(entry)
        below = trial / FEATURES
        return below if below.exists() and not (trial / "config.yaml").exists() else trial


def at_work(folder: Path, study: Study, ledger: Ledger) -> Snapshot:
    """A study as the driver that works on it knows it: nothing is read from its folder."""
    return Snapshot(folder, study, list(ledger.entries.values()), active=True, wall_seconds=ledger.wall_now())


def read(folder: Path, *, active: bool | None = None) -> Snapshot:
    """A study as it is now.

    Args:
        folder: of the study.
        active: whether a search is working on it; None: as the lock on the folder tells.

    Raises:
        ConfigError: `folder` is no study.
        LedgerError: its ledger cannot be read, or belongs to another study.
    """
    study = _study(folder / "study.yaml")
    rows = read_rows(folder / "ledger.jsonl")
    rows.check_objectives(study.plan.objective)
    works = holder(folder) is not None if active is None else active
    return Snapshot(folder, study, list(rows.entries.values()), works, rows.wall_seconds)


def _study(path: Path) -> Study:
    """What study.yaml says. Who follows a search reads it again and again: it is parsed when it has changed."""
    with contextlib.suppress(OSError):  # what is wrong with the file, its reader says
        now = path.stat()
        return _parsed(path.resolve(), (now.st_ino, now.st_mtime_ns, now.st_size), path)
    return file.read(path)


@lru_cache(maxsize=4)
def _parsed(path: Path, stamp: tuple[int, int, int], named: Path) -> Study:
    """`stamp` tells versions of the file apart; `named` is how complaints name it."""
    return file.read(named)
