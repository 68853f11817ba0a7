"""One process at a time writes a folder, whatever locks its file system has.

Two guards work together, both in the file `.claim` of the folder:
- the kernel's lock (flock), which ends with the process. Some file systems refuse it, in some it does nothing, in some
  it holds among the processes of one machine alone;
- a record of the owner, who shows that he lives by a beat (the file's time). The record of a process of this machine
  that is gone counts for nothing; the owner on another machine is watched for `SILENT` seconds.

The record holds a random token. Who works in the folder compares it before each step that must not be done twice
(`Lock.check`): another token says that somebody else has taken over; no record says that the folder is gone, or that an
empty mount point is in its place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from speaq.files.atomic import naming, open_regular
from speaq.files.plain_yaml import ConfigError

log = logging.getLogger(__name__)

NAME = ".claim"
PATIENCE = 1.0  # seconds for a lock that somebody is about to give back
ORPHANS = 30.0  # seconds for the children of a killed process, which hold its lock until they end
BEAT, SILENT = 2.0, 12.0  # seconds between signs of life; without one in so long, an owner elsewhere is taken for dead
SETTLE = 0.5  # seconds in which two that took a folder at once see each other
RECORD = 1024  # bytes, always as many, so that no reader meets half a record
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})


class Busy(ConfigError):
    """Another process works in the folder. `owner` says which, as far as it is known."""

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        self.owner = "another process" if owner is None else str(owner)
        super().__init__(f"{folder}: {self.owner}, works here already; wait for its end, or give another folder")


class Taken(RuntimeError):
    """Another process has taken the folder over."""


class Gone(RuntimeError):
    """The folder is not there any more, or another one is in its place."""


@dataclass(frozen=True)
class Owner:
    """What a record says."""

    token: str
    host: str
    process: int
    born: str  # when the process began, in the kernel's count: numbers of processes are used again
    machine: str  # this boot of its machine
    numbers: str  # where numbers of processes mean the same: its container
    since: float  # Unix time

    @classmethod
    def new(cls) -> Owner:
        """This process, from now on."""
        process = os.getpid()
        return cls(
            token=uuid.uuid4().hex,
            host=platform.node(),
            process=process,
            born=_born(process) or "",
            machine=_machine(),
            numbers=_numbers(),
            since=time.time(),
        )

    @classmethod
    def of(cls, content: Any) -> Owner | None:
        """What a record says; None for what no process of ours wrote."""
        try:
            owner = cls(**{field.name: content[field.name] for field in fields(cls)})
        except (KeyError, TypeError):
            return None
        kinds = {"process": int, "since": (int, float)}
        if not all(isinstance(value, kinds.get(name, str)) for name, value in asdict(owner).items()):  # type: ignore[arg-type]
            return None
        return owner if 0 < owner.process < 2**31 and 0 <= owner.since < 2**40 and owner.host.isprintable() else None

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process} on {self.host}, since {since}"

    def is_dead(self) -> bool | None:
        """None where it cannot be told from here."""
        if (self.machine, self.numbers) != (_machine(), _numbers()):
            return None
        return _born(self.process) != self.born


class Lock:
    """The folder for this process alone, from now to `close`, which removes the file."""

    def __init__(self, folder: Path, patience: float = PATIENCE, name: str = NAME) -> None:
        """Takes a folder that is there.

        Args:
            patience: seconds that a living owner is given to end.
            name: of the file with the record; a folder can be taken for several purposes.

        Raises:
            Busy: another process works in it.
            OSError: the folder cannot be written.
        """
        self.folder, self._path = folder, folder / name
        self._owner = Owner.new()
        deadline = time.monotonic() + patience
        while not self._take(deadline):
            pass
        self._silent = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="beat", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """What tells this owner from all others."""
        return self._owner.token

    def check(self) -> None:
        """Raises Taken or Gone where the folder is not this process's any more."""
        check(self.folder, self.token, self._path.name)

    def close(self) -> None:
        """Gives the folder back, unless another process has it or it is gone."""
        self._silent.set()
        self._thread.join(BEAT)
        with contextlib.suppress(OSError, Taken, Gone):  # storage that is away: whoever comes next sees no beat
            self.check()
            self._path.unlink()
        with contextlib.suppress(OSError):  # of a folder that was moved
            owner = _read(self._file)
            if owner is not None and owner.token == self.token:
                os.ftruncate(self._file, 0)
        os.close(self._file)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, deadline: float) -> bool:
        """Takes both guards; False where the file was given back, and removed, meanwhile. Raises Busy."""
        self._file = open_regular(self._path, os.O_RDWR | os.O_CREAT)
        try:
            has_flock = self._has_flock(deadline)
            before = _read(self._file)
            if before is not None and not (has_flock and before.machine == _machine()):
                self._wait_for(before, deadline)
            taken = self._is_there()
            if taken:
                with naming(self._path):
                    _write(self._file, self._owner)
                taken = has_flock or self._is_settled()
        except BaseException:
            os.close(self._file)
            raise
        if not taken:
            os.close(self._file)
        return taken

    def _has_flock(self, deadline: float) -> bool:
        """Takes the kernel's lock; False where this file system has none that works. Raises Busy."""
        orphans = time.monotonic() + ORPHANS
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._excludes()
            except BlockingIOError:
                owner = _read(self._file)
                orphaned = owner is not None and owner.is_dead()
                if time.monotonic() > (max(deadline, orphans) if orphaned else deadline):
                    raise Busy(self.folder, owner) from None
                time.sleep(0.05)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                return False

    def _excludes(self) -> bool:
        """Whether the lock that was just taken keeps a second one out."""
        second = open_regular(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(second)
        return False

    def _wait_for(self, owner: Owner, deadline: float) -> None:
        """Until the owner has ended or given the folder back. Raises Busy at the deadline."""
        if owner.is_dead() is None:
            self._watch(owner)
            return
        while not owner.is_dead() and self._is_there():
            if time.monotonic() > deadline:
                raise Busy(self.folder, owner)
            time.sleep(0.05)

    def _watch(self, owner: Owner) -> None:
        """Raises Busy where an owner elsewhere shows within `SILENT` seconds that he lives."""
        log.info("%s: %s had it last and is given %.0f s to show that it lives", self.folder, owner, SILENT)
        before, deadline = _beat_of(self._path), time.monotonic() + SILENT
        while time.monotonic() < deadline and self._is_there():
            time.sleep(min(0.25, SILENT / 4))
            if _beat_of(self._path) not in (before, None):
                raise Busy(self.folder, owner)

    def _is_there(self) -> bool:
        """Whether the file is still the folder's."""
        try:
            there, ours = self._path.lstat(), os.fstat(self._file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def _is_settled(self) -> bool:
        """Whether of two that took the folder at once this one has it; False where the file is gone. Raises Busy."""
        time.sleep(SETTLE)
        now = _read(self._file)
        if now is not None and now.token != self.token:
            raise Busy(self.folder, now)
        return self._is_there()

    def _beat(self) -> None:
        said = False
        while not self._silent.wait(BEAT):
            try:
                os.utime(self._file)
            except OSError as error:
                if not said:
                    log.warning("%s: shows no sign of life to other machines (%s)", self.folder, error.strerror)
                said = True


_of_thread = threading.local()


@contextlib.contextmanager
def held(folder: Path, patience: float = PATIENCE, name: str = NAME, *, nested: bool = True) -> Iterator[Lock]:
    """The folder's lock for the time of the block. Raises as `Lock`.

    Args:
        nested: a thread that has it already gets the same one.
    """
    mine: dict[Path, Lock] = _of_thread.__dict__.setdefault("locks", {})
    place = folder.resolve() / name
    if nested and place in mine:
        yield mine[place]
        return
    with Lock(place.parent, patience, name) as lock:
        mine[place] = lock
        try:
            yield lock
        finally:
            del mine[place]


def check_held(folder: Path) -> None:
    """Raises Taken or Gone where this thread has taken a folder that is not its own any more."""
    mine: dict[Path, Lock] = _of_thread.__dict__.setdefault("locks", {})
    lock = mine.get(folder.resolve() / NAME)
    if lock is not None:
        lock.check()


def check(folder: Path, token: str, name: str = NAME) -> None:
    """Raises Gone where `folder` is not there or is another one, Taken where its lock's token is not this one."""
    try:
        file = open_regular(folder / name, os.O_RDONLY)  # opened anew: network file systems then ask their server
        try:
            owner = _read(file)
        finally:
            os.close(file)
    except OSError as error:
        raise Gone(
            f"{folder}: is not there any more ({error.strerror}): moved, or its storage is away; put it back and resume"
        ) from error
    if owner is None or owner.token != token:
        raise Taken(f"{folder}: {owner or 'another process'}, has taken it over")


def holder(folder: Path) -> Owner | None:
    """Who works in the folder, as far as it can be told without waiting and writing; None: nobody."""
    try:
        file = open_regular(folder / NAME, os.O_RDONLY)
    except OSError:  # no lock, or none that can be read
        return None
    try:
        owner = _read(file)
        beat = os.fstat(file).st_mtime
        dead = None if owner is None else owner.is_dead()
        if dead is False and _is_copied(folder / NAME, file):
            return None
    finally:
        os.close(file)
    if owner is None:
        return None
    if dead is None:
        dead = abs(time.time() - beat) > 5 * SILENT  # clocks of machines differ
    return None if dead else owner


def _is_copied(path: Path, file: int) -> bool:
    """Whether a record of a living process of this machine was copied with its folder: nobody has the kernel's lock of
    this file, and that would keep others out here.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        second = open_regular(path, os.O_RDONLY)
    except OSError:  # held, or no locks here
        return False
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(second)
    return False


def _read(file: int) -> Owner | None:
    """The record; None where there is none, or what no process of ours wrote."""
    try:
        return Owner.of(json.loads(os.pread(file, RECORD, 0)))
    except (ValueError, RecursionError):
        return None


def _write(file: int, owner: Owner) -> None:
    text = json.dumps(asdict(owner)).encode()[: RECORD - 1].ljust(RECORD - 1) + b"\n"
    os.pwrite(file, text, 0)
    os.ftruncate(file, RECORD)
    os.fsync(file)


def _beat_of(path: Path) -> int | None:
    """The time of the last sign of life. Opened anew: network file systems then ask their server."""
    try:
        file = open_regular(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(file).st_mtime_ns
    finally:
        os.close(file)


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # no Linux
        return platform.node()


def _numbers() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _born(process: int) -> str | None:
    """When a process of this container began; None where there is none, or one that has ended."""
    try:
        _, _, rest = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    except OSError:
        return None if Path("/proc/self/stat").exists() else _signalled(process)
    state, *columns = rest.split()
    return None if state in "ZX" else columns[18]


def _signalled(process: int) -> str | None:
    """The same without /proc: whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""
