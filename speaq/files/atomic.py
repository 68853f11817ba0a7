"""Writing files: in one step, and never through a link.

A run or a study may come from elsewhere, with links where we are about to write: what they point to is left alone.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speaq.files.plain_yaml import ConfigError

MARK = ".tmp."  # in the names of files that are being written, which begin with a dot and end as they will


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields an empty file beside `path` to write by its name; at the end of the block it takes the place of `path`.

    Whoever reads `path` sees the old file or the whole new one. A link at `path` is replaced, not followed. Where the
    block raises, the new file is removed; a killed process leaves it behind, see `tidy`. Raises OSError.
    """
    temporary = path.with_name(f".{secrets.token_hex(6)}{MARK}{path.name[-100:]}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    try:
        with naming(path, temporary):
            yield temporary
            _to_disk(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path, unknown: Path | None = None) -> Iterator[None]:
    """An OSError that leaves the block names a file: `path` where it names none, or one that nobody knows."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(unknown)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """Yields a new folder to fill, which gets the name of `folder` at the end of the block: nobody meets half of it.

    Where the block raises, the new folder is removed; what a killed process left is removed by the next one.

    Raises OSError: `folder` is there and not empty, or cannot be written.
    """
    inside = folder.is_mount()  # no other folder can take its name
    place = folder if inside else folder.absolute().parent
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f".*{MARK}{glob.escape(folder.name)}"):
        shutil.rmtree(left)
    temporary = place / f".{secrets.token_hex(6)}{MARK}{folder.name}"
    temporary.mkdir()
    try:
        yield temporary
        if inside:
            for path in sorted(temporary.iterdir()):
                path.rename(folder / path.name)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Content first, then the name: no crash leaves the name with half the content."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_text(path: Path, text: str) -> None:
    """Gives `path` a new content in one step. Raises OSError."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_to(path: Path) -> io.FileIO:
    """A file to add to, made where it is not there; nothing is buffered. Raises OSError, also for a link or a FIFO."""
    return _NamedFile(path, "ab", opener=lambda name, flags: open_regular(Path(name), flags))


class _NamedFile(io.FileIO):
    """Says which file could not be written."""

    def write(self, data: Any, /) -> int:
        with naming(Path(self.name)):
            return super().write(data) or 0


def append_text(path: Path) -> io.TextIOWrapper:
    """As `append_to`, for UTF-8 text; a line is written when it ends."""
    return io.TextIOWrapper(io.BufferedWriter(append_to(path)), encoding="utf-8", line_buffering=True)


def append_line(path: Path, line: str) -> None:
    """Adds a line, whole or not at all; what a killed process left of one is removed first. Raises OSError."""
    text = f"{line}\n".encode()
    with append_to(path) as file:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        size = os.fstat(file.fileno()).st_size
        if (written := file.write(text)) != len(text):
            if os.fstat(file.fileno()).st_size == size + written:  # else somebody else has added a line
                file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def open_regular(path: Path, flags: int) -> int:
    """A file descriptor of a regular file. Raises OSError for a link, a FIFO, a device: none of them is waited for."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "is no regular file", str(path))


def check_links(folder: Path) -> None:
    """Raises ConfigError where a folder that is to be written holds a link that leads out of it, a FIFO or a device.

    wandb, in a folder of this name, has a link of its own to its log.
    """
    top = folder.resolve()
    for place, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = Path(place, name)
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind) and not path.resolve().is_relative_to(top):
                raise ConfigError(f"{path}: is a link that leads out of {top}; put what it names in its place")
            if not (stat.S_ISLNK(kind) or stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise ConfigError(f"{path}: is neither a file nor a folder; remove it")
        folders[:] = [name for name in folders if name != "wandb"]


def tidy(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left. Only for who has the folder to himself."""
    for pattern in (f".*{MARK}*", ".*.tmp"):  # the second: of earlier versions
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
