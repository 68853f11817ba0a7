"""A local folder that is kept in step with what lies at a URL: fetching and uploading.

Uploads go in an order in which every prefix of them is a run that can be resumed: last.pt and the ledger come last.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speaq.files import atomic
from speaq.files.locks import Busy, Lock, Taken
from speaq.study.errors import StorageLost

from .remote import Stamp, Store
from .url_claim import UrlClaim, apart

log = logging.getLogger(__name__)

Local = tuple[int, int, int]  # of a file here: bytes, time of the last change in ns, inode, which renaming keeps
LEDGER, LAST = "ledger.jsonl", "checkpoints/last.pt"
FRESH = 3 * 10**9  # ns: a store's times may be whole seconds
THREADS = 16


class Copy:
    """A local folder and the URL that it is a copy of."""

    def __init__(
        self, store: Store, folder: Path, wanted: Callable[[str], bool], without: Iterable[str] = (), *, leads: bool
    ) -> None:
        """Reads nothing yet.

        Args:
            wanted: tells names of files that are kept in step.
            without: folders at the top that are not.
            leads: what is here may be ahead of the store; else the store is always right.
        """
        self.store, self.folder, self._leads = store, folder, leads
        self.claim = UrlClaim(store)
        self._wanted, self._without = wanted, tuple(without)
        self._state_file = folder.with_name(f".{folder.name}.state.json")
        self._known: dict[str, tuple[Stamp, Local]] = {}  # name → the store's and the local state when both were alike
        self._fresh: set[str] = set()  # names that are fetched again next time
        self._last = ""  # of the claim under which the state was written
        self._guard = threading.Lock()
        self._failure: Exception | None = None  # why nothing is uploaded any more

    @property
    def url(self) -> str:
        """Where the folder lies in the store."""
        return self.store.url

    @property
    def known(self) -> bool:
        """Whether anything is there."""
        return any(self._wanted(name) for name in self._known) or bool(self._local())

    def be_patient(self) -> None:
        """From now on a store that is away is waited for: in the middle of a run that costs less than its end."""
        self.store = self.claim.store = self.store.patient()

    @contextlib.contextmanager
    def locked(self, wait: float) -> Iterator[None]:
        """The folder for this process alone, of all on this machine. Raises Taken after `wait` seconds."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(Lock(self.folder.parent, wait, f".{self.folder.name}.lock"))
            except Busy as error:
                raise Taken(f"{self.url}: another process of this machine works on it ({error.owner})") from error
            yield

    # Fetching

    def pull(self) -> None:
        """Makes the folder what the store holds, or leaves it where it is ahead: the store is as this copy left it."""
        self._last, self._known = "", self._read_state()
        found = self.store.stamps(self._without)
        listed = {name: stamp for name, stamp in found.items() if self._wanted(name)}
        known = {name: both for name, both in self._known.items() if self._wanted(name)}
        as_left = {name: there for name, (there, _) in known.items()} == listed
        untouched = as_left and self._last != "" and self._last == self.claim.before
        if self._leads and (untouched or self._is_ahead(listed)):
            self._known = {name: both for name, both in self._known.items() if both[0] == listed.get(name)}
            self._write_state()
        else:
            self._fetch(listed, known)

    def _is_ahead(self, listed: Mapping[str, Stamp]) -> bool:
        """Whether the local ledger goes on where the store's ends; one that has gone another way is set aside."""
        if not listed:
            return True
        own = self.folder / LEDGER
        if LEDGER not in listed or not own.exists():
            return False
        here, there = own.read_bytes(), self.store.read(LEDGER) or b""
        if here.startswith(there):
            return len(here) > len(there)
        if not there.startswith(here):
            aside = own.with_name(f".{LEDGER}.{int(time.time())}")
            own.replace(aside)
            log.warning("%s: has gone another way than the copy here; it is right, ours is now %s", self.url, aside)
        return False

    def _fetch(self, listed: Mapping[str, Stamp], known: Mapping[str, tuple[Stamp, Local]]) -> None:
        here = self._local()
        same = {name for name in listed if name in known and known[name] == (listed[name], here.get(name))}
        if self._leads:  # who came after this copy may have written as many bytes in the second of its last upload
            last = max((there[1] for there, _ in known.values()), default=0)
            same = {name for name in same if last - listed[name][1] > FRESH}
        self._state_file.unlink(missing_ok=True)  # a fetch that is cut off is begun again
        _all(lambda name: self.store.download(name, self.folder / name), [name for name in listed if name not in same])
        for name in here.keys() - listed.keys():
            (self.folder / name).unlink(missing_ok=True)
        now = time.time_ns()
        self._known = {name: both for name, both in self._known.items() if not self._wanted(name)}
        self._known |= {name: (stamp, _stamp(self.folder / name)) for name, stamp in listed.items()}
        if not self._leads:  # others write it: it may change without showing it
            self._fresh = {name for name, stamp in listed.items() if abs(now - stamp[1]) < FRESH}
        self._write_state()

    def _local(self) -> dict[str, Local]:
        """Files here that are to be in the store."""
        return {name: stamp for name, stamp in _files(self.folder, self._without).items() if self._wanted(name)}

    # Uploading

    def push(self, *, live: bool = False) -> list[str]:
        """Uploads what has changed here since the last time, and returns its names.

        Args:
            live: a database that is being written stays out.

        Raises:
            Taken: another process has claimed the URL; nothing is uploaded.
            StorageLost: the store could not be reached for too long.
        """
        with self._guard:
            if (lost := self._failure or self.claim.lost) is not None:
                raise lost
            here = self._local()
            changed = [n for n, s in here.items() if n not in self._known or self._known[n][1] != s]
            changed = [name for name in changed if not (live and name.endswith(".db"))]
            if not changed:
                return []
            if self.claim.token:
                self.claim.check()
            try:
                self._send(changed, here)
            except StorageLost as error:
                self._failure = error
                raise
            finally:
                self._write_state()
            return changed

    def _send(self, names: list[str], here: Mapping[str, Local]) -> None:
        renamed = [name for name in names if name.endswith(".pt") and self._copied(name, here)]
        late = [name for name in (LAST, LEDGER) if name in names]
        early = [name for name in names if name not in renamed and name not in late]
        self._note(renamed, here)
        for part in (early, late):
            _all(self._upload, part)
            self._note(part, here)

    def _upload(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            self.store.upload(self.folder / name, name)

    def _copied(self, name: str, here: Mapping[str, Local]) -> bool:
        """Whether the store has made `name` of what it knew by another name: last.pt has become previous.pt."""
        other = next((n for n, both in self._known.items() if n != name and both[1] == here[name]), None)
        if other is None:
            return False
        apart(self.store.copy, other, name)
        return True

    def _note(self, names: list[str], here: Mapping[str, Local]) -> None:
        if names:
            for name, stamp in zip(names, self.store.stamp(*names), strict=True):
                if stamp is not None:
                    self._known[name] = (stamp, here[name])

    # What was alike when

    def _read_state(self) -> dict[str, tuple[Stamp, Local]]:
        try:
            content = json.loads(self._state_file.read_text(encoding="utf-8"))
            self._last = str(content["claim"])
            return {name: ((a, b), (c, d, e)) for name, ((a, b), (c, d, e)) in content["files"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or torn: nothing is known
            self._state_file.unlink(missing_ok=True)
            return {}

    def _write_state(self) -> None:
        lasting = {name: both for name, both in self._known.items() if name not in self._fresh}
        atomic.write_text(self._state_file, json.dumps({"claim": self.claim.token, "files": lasting}))


# Files on their way to be others, and Ray's own notes about a run.
PASSING = (".tmp", "-journal", "-wal", "-shm", "checkpoint_manager_snapshot.json")


def _stamp(path: Path) -> Local:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _files(folder: Path, without: Collection[str]) -> dict[str, Local]:
    """The files in a folder by their names in it, but for hidden and passing ones and those in `without` at its top."""
    found = {}
    for place, folders, files in os.walk(folder):
        where = Path(place).relative_to(folder)
        top = without if where == Path() else ()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in top]
        for file in files:
            if not file.startswith(".") and not file.endswith(PASSING):
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
                    found[(where / file).as_posix()] = _stamp(folder / where / file)
    return found


def _all(call: Callable[[str], None], names: list[str]) -> None:
    """Calls for all names, some of them at once."""
    with ThreadPoolExecutor(max(1, min(THREADS, len(names)))) as pool:
        for _ in pool.map(call, names):
            pass
