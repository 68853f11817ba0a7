"""Errors that end a search or a trial, and what they say."""

from __future__ import annotations

import errno

from speaq.files.locks import Gone

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


def is_of_storage(error: BaseException) -> bool:
    """Whether the storage of the run is at fault, so that every trial would fail."""
    return isinstance(error, StorageLost | Gone) or (isinstance(error, OSError) and error.errno in STORAGE)


def last_line(error: BaseException) -> str:
    """Of Ray's errors, which are tracebacks: the line that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """An error as a reason: short, without its traceback."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
