"""One process at a time writes a run folder: a worker that outlived its driver cannot spoil the next attempt."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

from speaq.files.locks import Busy, Taken, held

WAIT = 120.0  # seconds that an earlier attempt is given to die


class Claim:
    """Holds the folder for this process, until it is closed or the process ends."""

    def __init__(self, folder: Path, wait: float = WAIT) -> None:
        """Takes the folder, which is made in one that is there.

        Raises:
            Taken: an earlier attempt still writes after `wait` seconds.
            OSError: the folder cannot be written.
        """
        folder.mkdir(exist_ok=True)
        self._ending = contextlib.ExitStack()
        try:
            self._lock = self._ending.enter_context(held(folder, wait, nested=False))
        except Busy as error:
            raise Taken(str(error)) from error

    def check(self) -> None:
        """Raises Taken where a later attempt has taken the folder, Gone where it is not there any more."""
        self._lock.check()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()
