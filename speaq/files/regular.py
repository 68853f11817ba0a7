"""What may be opened to be read: files, and no pipes or devices, which would wait for ever or never end."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def check_regular(path: Path) -> Path:
    """The path of a file, or of a link to one: what would wait for a writer or never end is not opened.

    Raises:
        OSError: missing, a folder, a named pipe, a socket or a device.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise OSError(errno.EINVAL, f"{kind}, not a file; copy it to one first", str(path))
    return path


def sha256(path: Path) -> str:
    """The digest of a file's content, in hexadecimal. Raises OSError as `check_regular`."""
    with check_regular(path).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
