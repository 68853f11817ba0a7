"""The record of a study: append-only JSON lines, one event each, flushed to disk before anything is built on it.

Everything else (sampler, scheduler, tables) is rebuilt from here, so that a driver killed at any moment loses nothing:
asked → running → reported… → finished | paused | pruned | infeasible | failed; a paused trial may be promoted, and runs
again. A trial is known by its id; its config digest holds the seed. Rows `opened` and `closed` say when a driver worked
on the study.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import reprlib
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from speaq.config import Config, ConfigError, defaults, flatten, to_dict
from speaq.files.atomic import append_to, check_links
from speaq.files.foreign import parse_json
from speaq.files.locks import Busy, Gone, Lock, Taken
from speaq.files.regular import check_regular
from speaq.space.parameters import Plain
from speaq.study.decoding import Decoding, decoding_of
from speaq.study.errors import StorageLost
from speaq.training.callbacks import Metrics
from speaq.training.origins import STARTS

log = logging.getLogger(__name__)

State = Literal["asked", "running", "finished", "paused", "pruned", "infeasible", "failed"]
Event = State | Literal["reported", "promoted"]

STOPPED: tuple[State, ...] = ("paused", "pruned")  # by the scheduler: for now, for good
ENDED: tuple[State, ...] = ("finished", *STOPPED, "infeasible", "failed")


class LedgerError(ConfigError):
    """A study folder that cannot be worked on, or does not hold what was written."""


@dataclass
class Entry:
    """One trial, as the rows so far tell it."""

    id: str
    digest: str
    label: str | None
    values: dict[str, Plain] | None  # None: a reference outside the space
    overrides: dict[str, Any]  # dotted keys in which it differs from the study's config
    seed: int = 0
    protocol: str | None = None  # short name of how its metrics are counted; None: asked before ledgers said it
    state: State = "asked"
    attempts: int = 0
    gpu_share: float = 1.0  # of each of its GPUs, in its last attempt: resources.trials_per_gpu
    promotions: int = 0  # times that it went on after it was paused
    reports: dict[int, Metrics] = field(default_factory=dict)  # step → metrics
    step: int = 0
    metrics: Metrics = field(default_factory=dict)  # of the kept checkpoint
    best_step: int | None = None
    seconds: float = 0.0
    seconds_before: float = 0.0  # of them, those of earlier attempts
    reason: str | None = None
    cost: Metrics = field(default_factory=dict)  # of a run's result: peak_memory_mib, data_wait_share, latency_ms, …
    decoding: Decoding | None = None  # at which `metrics` were judged; None: as trained, on all images
    asked: float = 0.0  # Unix time
    seconds_at: dict[int, float] = field(default_factory=dict)  # step of a report → `seconds` then
    start: Mapping[str, Any] | None = None  # pbt: {trial, step} whose checkpoint it began from, instead_of whom
    origin: str | None = None  # where its values come from; None: from the sampler, or it is a reference

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, whichever: it is at rest. Only a paused one may run again."""
        return self.state in ENDED

    @property
    def remark(self) -> str:
        """What a table says of it besides its id."""
        child = None if self.start is None else f"{self.start['trial']} from {self.start['step']}"
        said = self.label or self.origin or child or ""
        if self.label is not None or not self.promotions:
            return said
        return f"{said}, promoted" if said else "promoted"

    @property
    def first_step(self) -> int:
        """Steps that it did not have to make itself."""
        return 0 if self.start is None else self.start["step"]


MAX_NUMBER = 1e100  # sums of such numbers are finite
LAST_TIME = 1e11  # Unix time, in the year 5138: dates can be made of it
LONGEST = 1e10  # seconds, 317 years
LONGEST_GAP = 86_400.0  # seconds between two rows without a driver's own clock: one that was set cannot spend a budget


class Rows:
    """What the rows of a ledger tell, in the order in which they were written."""

    wall_seconds = 0.0  # from a driver's start to its last row, of all drivers
    _row_time: float | None = None  # of the last row, Unix time
    _row_clock = 0.0  # of the last row, seconds since its driver began

    def __init__(self, path: Path) -> None:
        """Reads nothing yet. `path` is named in complaints."""
        self.path = path
        self.entries: dict[str, Entry] = {}

    def read(self, rows: bytes) -> None:
        """Takes whole rows. Raises LedgerError at the first that is none."""
        for number, line in enumerate(rows.splitlines(), start=1):
            try:
                self.take(checked(parse_json(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise LedgerError(
                    f"{self.path} line {number}: not a row of a ledger ({error}); speaq doctor {self.path.parent} "
                    "keeps what is whole"
                ) from error

    def check_objectives(self, names: Sequence[str]) -> None:
        """Raises LedgerError where a finished trial lacks the value of an objective: no search writes that."""
        for entry in self.entries.values():
            lacking = [name for name in names if entry.metrics.get(name) is None]
            if entry.state == "finished" and lacking:
                raise LedgerError(
                    f"{self.path}: trial {entry.id} has finished without {', '.join(lacking)}, which study.yaml names "
                    "as objective; the two files do not belong together"
                )

    def take(self, row: Mapping[str, Any]) -> None:
        """Takes one row. Raises ValueError or KeyError where it does not follow from those before."""
        event = row["event"]
        self._count(row)
        if event in ("opened", "closed"):
            return
        trial = row["trial"]
        if event == "asked":
            if trial in self.entries:
                raise ValueError(f"trial {trial} is asked for twice")
            self.entries[trial] = _asked(row)
            return
        entry = self.entries[trial]
        if event == "running":
            entry.state, entry.attempts = "running", row["attempt"]
            entry.seconds_before, entry.gpu_share = entry.seconds, row.get("gpu_share", 1.0)
        elif event == "reported":
            entry.reports[row["step"]] = row["metrics"]
            entry.step = row["step"]
            entry.seconds = entry.seconds_before + row.get("seconds", entry.seconds - entry.seconds_before)
            entry.seconds_at[row["step"]] = entry.seconds
        elif event == "promoted":
            if entry.state != "paused":
                raise ValueError(f"trial {trial} is promoted but not paused")
            entry.state, entry.promotions = "asked", entry.promotions + 1
            entry.metrics, entry.best_step, entry.reason, entry.cost = {}, None, None, {}
            entry.decoding = None
        elif event in ENDED:
            if entry.ended:
                raise ValueError(f"trial {trial} ends twice")
            entry.state = event
            entry.reason = row.get("reason")
            entry.metrics, entry.best_step = row.get("metrics", {}), row.get("best_step")
            entry.step, entry.seconds = row.get("step", entry.step), row.get("seconds", entry.seconds)
            entry.cost, entry.decoding = row.get("cost", {}), decoding_of(row.get("decoding"))
        else:
            raise ValueError(f"unknown event {event!r}")

    def _count(self, row: Mapping[str, Any]) -> None:
        """Adds the seconds at work since the row before: by the driver's clock; in older rows by their times, of which
        a gap counts as LONGEST_GAP at most.
        """
        then, clock = self._row_clock, row.get("clock", 0.0)
        if row["event"] == "opened":
            clock = 0.0
        elif "clock" in row:
            if clock < then:
                raise ValueError(f"clock: {clock} is before {then}, that of the row above")
            self.wall_seconds += clock - then
        elif self._row_time is not None:
            self.wall_seconds += min(max(0.0, row["time"] - self._row_time), LONGEST_GAP)
        self._row_time, self._row_clock = row["time"], clock


class Ledger(Rows):
    """Reads what is there, then appends; holds a lock, so that one driver at a time works on a study."""

    def __init__(self, path: Path) -> None:
        """Takes the study's folder.

        Raises:
            LedgerError: another process has it, or a line cannot be read.
            ConfigError: it holds links that lead out of it.
        """
        super().__init__(path)
        self._torn = False  # whether a row was written in part
        check_links(path.parent)
        try:
            self.lock = Lock(path.parent)
        except Busy as error:
            raise LedgerError(f"{path.parent}: another search is running on this folder ({error.owner})") from error
        except OSError as error:
            raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            self._file = append_to(path)
            self._replay()
        except OSError as error:
            self.lock.close()
            raise LedgerError(f"{path}: cannot be written ({error.strerror})") from error
        except LedgerError:
            self.lock.close()
            raise
        self._opened, self._began = time.time(), time.monotonic()
        self._wrote = False  # a driver that finds nothing to do leaves no trace

    def _replay(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):  # killed in the middle of a line: the event did not happen
            log.warning("%s: dropping a torn last line", self.path)
            os.truncate(self.path, complete)
        self.read(content[:complete])

    def append(self, event: Event, trial: str, **fields: Any) -> None:
        """Writes one row; it is on disk when this returns. Raises StorageLost (disk full, …)."""
        if not self._wrote:
            self._write({"event": "opened", "time": self._opened})
            self._wrote = True
        self._write({"event": event, "trial": trial, **self._now(), **fields})

    def _now(self) -> dict[str, float]:
        """`time` is for people and may jump; `clock`, seconds since this driver began, is what is counted."""
        return {"time": time.time(), "clock": round(time.monotonic() - self._began, 3)}

    def _write(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        if self._torn:  # a row behind half of one could not be read
            raise StorageLost(f"{self.path}: could not be written before; resume the search")
        try:
            self.lock.check()
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except (Gone, Taken) as error:
            raise StorageLost(str(error)) from error
        except OSError as error:
            self._torn = True
            raise StorageLost(f"{self.path}: cannot be written ({error.strerror}); --resume goes on") from error
        self.take(json.loads(line))

    def wall_now(self) -> float:
        """Seconds in which drivers worked on the study, this one up to now."""
        return self.wall_seconds + time.monotonic() - self._began - (self._row_clock if self._wrote else 0.0)

    def close(self) -> None:
        """Notes that this driver has ended, and gives the folder back."""
        with contextlib.suppress(StorageLost):  # nothing is lost but the seconds since the last row
            if self._wrote:
                self._write({"event": "closed", **self._now()})
        self._file.close()
        self.lock.close()


def read_rows(path: Path) -> Rows:
    """A ledger that may be growing: nothing is locked, and a torn last line is left alone. Raises LedgerError."""
    rows = Rows(path)
    try:
        content = check_regular(path).read_bytes() if path.exists() else b""
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror})") from error
    rows.read(content[: content.rfind(b"\n") + 1])
    return rows


# What the fields of a row may hold; a ledger can come from elsewhere, and an id becomes the name of a folder.
_TRIAL = re.compile(r"\d{4,9}")
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("event", "digest"), (str,)),
    **dict.fromkeys(("label", "protocol", "reason", "origin"), (str, NoneType)),
    **dict.fromkeys(("seed", "attempt", "step"), (int,)),
    **dict.fromkeys(("time", "seconds", "clock", "gpu_share"), (int, float)),
    "best_step": (int, NoneType),
    "values": (dict, NoneType),
    **dict.fromkeys(("overrides", "metrics", "cost", "start", "decoding"), (dict,)),
}
_MOST: Mapping[str, float] = {  # and no less than 0
    "time": LAST_TIME,
    **dict.fromkeys(("seconds", "clock"), LONGEST),
    "gpu_share": 1,
    **dict.fromkeys(("attempt", "step", "best_step"), 1e15),
}


def checked(row: Any) -> Mapping[str, Any]:
    """A row as it was read. Raises ValueError where a field holds what no search writes."""
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is expected, not {type(row).__name__}")
    for name, value in row.items():
        kinds = _KINDS.get(name)
        if kinds is not None and not (isinstance(value, kinds) and _is_bearable(value)):
            raise ValueError(f"{name}: {reprlib.repr(value)}")
        if value is not None and name in _MOST and not 0 <= value <= _MOST[name]:
            raise ValueError(f"{name}: {reprlib.repr(value)} is not between 0 and {_MOST[name]:g}")
    _check_ids(row, "trial")
    if "start" in row:
        _check_ids(row["start"], "trial", "instead_of")
        if type(row["start"].get("step")) is not int:
            raise ValueError(f"start: step: {reprlib.repr(row['start'].get('step'))}")
    for name in ("metrics", "cost"):
        for key, value in row.get(name, {}).items():
            if not isinstance(value, (int, float, NoneType)) or not _is_bearable(value):
                raise ValueError(f"{name}: {key}: {reprlib.repr(value)}")
    steps = row.get("overrides", {}).get("training.max_steps", 1)
    if type(steps) is not int or not 0 < steps < MAX_NUMBER:
        raise ValueError(f"overrides: training.max_steps: {reprlib.repr(steps)}")
    return row


def _check_ids(row: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if name in row and not (isinstance(row[name], str) and _TRIAL.fullmatch(row[name])):
            raise ValueError(f"{name}: {reprlib.repr(row[name])}")


def _is_bearable(value: Any) -> bool:
    return not isinstance(value, bool) and (not isinstance(value, int | float) or abs(value) < MAX_NUMBER)


def _asked(row: Mapping[str, Any]) -> Entry:
    return Entry(
        row["trial"],
        row["digest"],
        row["label"],
        row["values"],
        row["overrides"],
        seed=row["seed"],
        protocol=row.get("protocol"),
        asked=row["time"],
        start=row.get("start"),
        origin=row.get("origin"),
    )


def digest(config: Config) -> str:
    """The same for two configs that ask for the same computation; a later version's new keys do not change it.

    Of the weights to start from it holds whether there are any, not where they lie: a study has one start.
    """
    values = _telling(config)
    start = sorted(values.keys() & set(STARTS))
    return _sha256(
        {**{key: value for key, value in values.items() if key not in start}, **({"start": start} if start else {})}
    )


def digests(config: Config) -> tuple[str, str]:
    """By which a ledger may know a config: `digest`, and that of earlier versions, which held the start's path."""
    return digest(config), _sha256(_telling(config))


def known_as(config: Config, known: Container[str]) -> str | None:
    """The digest among `known` that is the config's; None where it is not known."""
    return next((name for name in digests(config) if name in known), None)


def _telling(config: Config) -> dict[str, Any]:
    """The values of a config that a result depends on, where they are not the defaults."""
    usual = defaults()
    return {
        key: value
        for key, value in flatten(to_dict(config)).items()
        if value != usual[key] and not key.startswith(("sinks.", "resources."))
    }


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
