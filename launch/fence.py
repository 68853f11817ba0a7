"""One process at a time writes a run folder: a worker that outlived its driver cannot spoil the next attempt."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO

WAIT = 120.0  # seconds that an earlier attempt is given to die


class FencedError(RuntimeError):
    """The run folder belongs to another attempt now."""


class Claim:
    """Holds a lock that dies with the process, and a token in the folder for file systems without locks."""

    def __init__(self, folder: Path, wait: float = WAIT) -> None:
        """Takes the folder; raises FencedError where an earlier attempt still writes after `wait` seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / ".claim"
        self._token = f"{os.getpid()}-{uuid.uuid4().hex}"
        self._file: IO[str] = self._path.open("a+")
        self._lock(time.monotonic() + wait)
        self._file.truncate(0)
        self._file.write(self._token)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._file.close()
                    raise FencedError(f"{self._path.parent}: an earlier attempt still writes here") from None
                time.sleep(0.2)
            except OSError:  # no locks on this file system: the token has to do
                return

    def check(self) -> None:
        """Raises FencedError where a later attempt has taken the folder."""
        if self._path.read_text() != self._token:
            raise FencedError(f"{self._path.parent}: a later attempt writes here")

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # which releases the lock
