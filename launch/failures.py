"""How a trial's failure is taken: as its own, or as something that was done to it.

A trial gives its outcome as a mapping of one key: `failure` ends it; `died` and `again` hand it out again, from its
last checkpoint (the first counts, see `search.MAX_DEATHS`); `halted` ends the search, which can be resumed.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from launch.fence import FencedError
from speaq.data import LoaderDied
from speaq.files import atomic
from speaq.files.locks import Busy, Gone

# What the storage of a run does to it: full, read-only, away. No trial is at fault, and the next one would fail too.
STORAGE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EIO,
        errno.ESTALE,
        errno.EPERM,
        errno.EACCES,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
    }
)


class Halted(RuntimeError):
    """The search cannot go on where it is, through no fault of a trial; it can be resumed."""


class StorageLost(RuntimeError):
    """The storage of a run cannot be written."""


def outcome_of(error: BaseException, folder: Path) -> dict[str, str]:
    """What a trial in `folder` tells of `error`; the traceback is kept in error.txt there."""
    reason = one_line(error)
    if isinstance(error, FencedError | Busy):
        return {"again": reason}
    if isinstance(error, LoaderDied):
        return {"died": reason}
    if isinstance(error, Gone | Halted):  # sentences of their own
        return {"halted": str(error)}
    if is_of_storage(error):
        return {"halted": reason}
    try:
        atomic.write_text(folder / "error.txt", "".join(traceback.format_exception(error)))
    except OSError as second:  # libraries wrap the first one beyond recognition
        if is_of_storage(second):
            return {"halted": f"{one_line(second)} ({reason})"}
    return {"failure": reason}


def is_of_storage(error: BaseException) -> bool:
    return isinstance(error, StorageLost | Gone) or (isinstance(error, OSError) and error.errno in STORAGE)


def last_line(error: BaseException) -> str:
    """Of Ray's errors, which are tracebacks: the line that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """An error as a reason: short, without its traceback."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
