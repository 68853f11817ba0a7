"""One process at a time writes a run folder: a worker that outlived its driver cannot spoil the next attempt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from speaq.files.locks import Busy, Lock, Taken, held

WAIT = 120.0  # seconds that an earlier attempt is given to die


@contextlib.contextmanager
def claimed(folder: Path, wait: float = WAIT) -> Iterator[Lock]:
    """A folder for this process for the time of the block; made in one that is there.

    Raises:
        Taken: an earlier attempt still writes after `wait` seconds.
        OSError: the folder cannot be written.
    """
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(held(folder, wait, nested=False))
        except Busy as error:
            raise Taken(str(error)) from error
        yield lock
