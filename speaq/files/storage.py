"""What a storage that is full, read-only or away says, in one line with what to do."""

from __future__ import annotations

import errno
import os

_AWAY = "look whether the storage is there"
_CLOSED = "give it the permissions, or another folder"
_FULL = "free some space there"
REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file system, or ulimit -f, allows no file so large",
    errno.EROFS: "make it writable, or give another folder",
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EIO: _AWAY,
    errno.ESTALE: _AWAY,
    errno.ETIMEDOUT: _AWAY,
    errno.ENOTCONN: _AWAY,
}


def line(error: BaseException) -> str | None:
    """`FILE: cannot be used (REASON); REMEDY`; None for another error than of storage."""
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    what = "a file" if error.filename is None else str(error.filename)
    return f"{what}: cannot be used ({os.strerror(error.errno)}); {REMEDIES[error.errno]}"  # HDF5 has pages of its own
