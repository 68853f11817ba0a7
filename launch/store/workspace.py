"""Runs and searches at a URL: each machine works in a local copy of the folder, which is kept in step with the store.

- `opened(url, "work")`: for who writes it. One process at a time has a URL: it puts a claim there, and shows that it
  lives by a beat; the claim is asked before every upload. Stores have no writes on condition (pyarrow offers none), so
  between that question and the end of an upload, another process may have come: what can then be overwritten is what
  was uploaded in this instant, and trials are computed alike by whoever computes them.
- `opened(url, "small" | "weights" | "all")`: for who reads; what a command adds is uploaded at its end.
- `of_trial(url, folder)`: for a trial on any node: fetched before it starts, uploaded before each evaluation is told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Literal

from speaq.files.locks import Taken
from speaq.study.errors import StorageLost
from speaq.study.snapshot import FEATURES

from . import url_claim
from .claim import WAIT
from .folder_copy import LAST, Copy
from .remote import Store, StoreError, joined, local_name, parent

if TYPE_CHECKING:
    from speaq.study.snapshot import Snapshot

log = logging.getLogger(__name__)

Kind = Literal["work", "small", "weights", "all"]
VARIABLE = "SPEAQ_SCRATCH"  # folder of the copies on this machine
TRIALS = "trials"  # of a search: kept in step by the trials themselves
BEST = "checkpoints/best.pt"
SEAL = ("study.yaml", "test_looks.jsonl")
DELAY = 2.0  # seconds between what happens in a search and its upload
LOOK_AGAIN = 3.0  # seconds between fetches for who follows a search


def scratch() -> Path:
    """The folder of all copies on this machine."""
    given = os.environ.get(VARIABLE)
    return Path(given).resolve() if given else Path.home() / ".cache" / "speaq"


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def working_folder(url: str) -> Path:
    """Where this machine works on what lies at a URL. Raises StoreError."""
    return scratch() / "work" / local_name(url)


class Opened:
    """What was opened for a URL on this machine, as long as it is."""

    def __init__(self, copy: Copy, part: str = "", *, writes: bool) -> None:
        """`part`: the one file that was asked for. `writes`: this process has the URL for itself; else it looks."""
        self.folder, self.copy, self.writes = copy.folder.resolve(), copy, writes
        self.path = self.folder / part
        self._fetched = time.monotonic()

    def look_again(self) -> bool:
        """Fetches what has changed since, now and then; returns whether a process is at work. Raises StorageLost."""
        if time.monotonic() - self._fetched > LOOK_AGAIN:
            with self.copy.locked(url_claim.SILENT):
                self.copy.pull()
            self._fetched = time.monotonic()
        return url_claim.is_at_work(self.copy.store)


@dataclass(frozen=True)
class Workspace:
    """The folders of this machine in which a command works on what lies at URLs. Without any, all paths are just that.

    It is handed to whoever has to know that a folder is a copy, and of what.
    """

    opened: tuple[Opened, ...] = ()

    def url_of(self, path: Path) -> str | None:
        """Where a path of a copy lies in the store; None where it is of none."""
        path = path.resolve()
        for place in self.opened:
            if path == place.folder:
                return place.copy.url
            if path.is_relative_to(place.folder):
                return joined(place.copy.url, path.relative_to(place.folder).as_posix())
        return None

    def name_of(self, path: Path) -> str:
        """A path as the user knows it: as a URL where it is of a copy."""
        return self.url_of(path) or str(path)

    def with_urls(self, message: str) -> str:
        """A text of those below, who know paths of this machine alone, with the URLs instead."""
        for place in self.opened:
            base, mark, query = place.copy.url.partition("?")
            found = re.escape(str(place.folder)) + r"((?:/[\w.-]+)*)"
            message = re.sub(found, lambda m, b=base, q=mark + query: f"{b}{m[1]}{q}", message)  # type: ignore[misc]
        return message

    def _find(self, folder: Path, *, writes: bool) -> Opened | None:
        place = folder.resolve()
        return next((opened for opened in self.opened if opened.folder == place and opened.writes == writes), None)

    def read_study(self, folder: Path) -> Snapshot:
        """Reads a search as it is now, here or at the URL that was given. Raises as `snapshot.read`, StorageLost."""
        from speaq.study import snapshot

        opened = self._find(folder, writes=False)
        works = opened is not None and opened.look_again()
        return snapshot.read(folder, active=works or None)

    def place_of(self, folder: Path) -> PurePath:
        """Where a folder is: its absolute path, or the path of the URL that it is a copy of."""
        name = self.name_of(folder)
        return PurePosixPath(name.partition("?")[0]) if "://" in name else folder.resolve()

    def last_checkpoint(self, run: Path) -> tuple[int, ...] | None:
        """What tells a run's last checkpoint, here or in the store, from those before; None: there is none."""
        with contextlib.suppress(OSError, StorageLost):
            if (url := self.url_of(run)) is not None:
                return Store(url).stamp(LAST)[0]
            status = (run / LAST).stat()
            return status.st_mtime_ns, status.st_ino
        return None

    def checkpoint_of_trial(self, trial: Path) -> tuple[int, ...] | None:
        """What tells the last checkpoint of a trial, be it of its run from features, from those before."""
        return self.last_checkpoint(trial) or self.last_checkpoint(trial / FEATURES)

    def saver(self, folder: Path) -> Callable[[], None]:
        """What to call once `folder` holds something that must not be lost with this machine: of a copy, it uploads."""
        opened = self._find(folder, writes=True)

        def save() -> None:
            if opened is not None:
                opened.copy.push(live=True)

        return save

    @contextlib.contextmanager
    def following(self, folder: Path, halt: Callable[[Exception], None]) -> Iterator[Follower | None]:
        """A follower of the search in `folder` for the time of the block; None where the folder is no copy of a URL."""
        opened = self._find(folder, writes=True)
        if opened is None:
            yield None
            return
        with contextlib.closing(Follower(opened.copy, halt)) as follower:
            yield follower


@contextlib.contextmanager
def opened(url: str, kind: Kind) -> Iterator[Opened]:
    """A path at which what lies at a URL can be read, or with "work" be written. Raises ConfigError."""
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(_working(url) if kind == "work" else _viewed(url, kind))
        except (StorageLost, Taken) as error:
            raise StoreError(str(error)) from error
        yield place


@contextlib.contextmanager
def _working(url: str) -> Iterator[Opened]:
    copy = Copy(Store(url, patience=0.0), working_folder(url), lambda name: True, (TRIALS,), leads=True)
    with copy.locked(0.0):
        copy.claim.take(patient=True)
        copy.pull()
        copy.be_patient()
        copy.claim.beat()
        try:
            yield Opened(copy, writes=True)
        except BaseException:
            with contextlib.suppress(StorageLost, Taken):  # said already, or said here
                _finish(copy)
            raise
        else:
            _finish(copy)


def _finish(copy: Copy) -> None:
    try:
        copy.push()
        copy.claim.release()
    except (StorageLost, Taken) as error:
        copy.claim.fall_silent()
        if not isinstance(error, Taken):
            log.warning("%s: lacks the last changes, %s has them; a resume here uploads them", copy.url, copy.folder)
        raise


@contextlib.contextmanager
def _viewed(url: str, kind: Kind) -> Iterator[Opened]:
    store = Store(url, patience=0.0)
    folder, part = scratch() / "view" / local_name(url), ""
    if store.is_object():
        url, part = parent(url)
        store, folder = Store(url, patience=0.0), folder.parent
    copies = [Copy(store, folder, _filter(store, kind, part), leads=False)]
    if (study := _study_above(url)) is not None:  # says whether its test split is sealed, and who has looked at it
        top = scratch() / "view" / local_name(study)
        seal = Store(study, patience=0.0)
        copies.append(Copy(seal, top, lambda name: name in SEAL, (TRIALS, "confirm"), leads=False))
    for copy in copies:
        with copy.locked(url_claim.SILENT):
            copy.pull()
    if not copies[0].known:
        raise StoreError(f"{url}: nothing is there")
    try:
        yield Opened(copies[0], part, writes=False)
    except BaseException:
        with contextlib.suppress(StorageLost):
            _add(copies[1:])  # a look at the test split is one, also when it came to nothing
        raise
    else:
        _add(copies)


def _add(copies: list[Copy]) -> None:
    for copy in copies:
        if added := copy.push():
            log.info("%s: added %s", copy.url, ", ".join(sorted(added)))


def _filter(store: Store, kind: Kind, part: str) -> Callable[[str], bool]:
    """Which files a command reads: of checkpoints, which are large, none, the best one (else all), or all."""
    if part:
        return lambda name: name == part
    best = kind == "weights" and store.stamp(BEST) != [None]

    def wanted(name: str) -> bool:
        return kind == "all" or not name.endswith(".pt") or (kind == "weights" and (not best or name == BEST))

    return wanted


def _study_above(url: str) -> str | None:
    """The URL of the search that a run or a checkpoint lies in; None where its path names none."""
    base, mark, query = url.partition("?")
    parts = base.split("/")
    places = [at for at, part in enumerate(parts) if part in (TRIALS, "confirm") and at > 3]
    return "/".join(parts[: places[-1]]) + mark + query if places else None


class Follower:
    """Listens to a search and keeps its folder in step with the store; nothing where the folder is just one."""

    def __init__(self, copy: Copy, halt: Callable[[Exception], None]) -> None:
        """`halt` is told, from any thread, when nothing can be uploaded any more."""
        self._copy, self._halt = copy, halt
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def __call__(self, entry: object, event: str) -> None:
        """Uploads at once what is asked for, before it begins: else a search that goes on elsewhere could ask for
        another trial by the same number. The rest follows within `DELAY` seconds."""
        if event == "asked":
            self._push()
        else:
            self._changed.set()

    def close(self) -> None:
        """Ends the thread; what it has not uploaded, the end of the search does."""
        self._closing.set()
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        while self._changed.wait():
            self._changed.clear()
            if self._closing.wait(DELAY):
                return
            with contextlib.suppress(StorageLost, Taken, OSError):  # the search has been told
                self._push()

    def _push(self) -> None:
        try:
            self._copy.push(live=True)
        except (StorageLost, Taken, OSError) as error:
            self._halt(error)
            raise


@contextlib.contextmanager
def of_trial(url: str, folder: Path) -> Iterator[Copy]:
    """The folder of a trial, fetched for an attempt of it. Of several attempts the latest may upload.

    Raises Taken where an earlier attempt of this machine does not end, StorageLost.
    """
    copy = Copy(Store(url), folder, lambda name: not name.startswith("checkpoints/step-"), leads=False)
    with copy.locked(WAIT):
        copy.claim.take(patient=False)
        copy.pull()
        yield copy
