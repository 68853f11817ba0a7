"""The files of a run folder by name, and its config. Light to import: PyTorch takes seconds."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from speaq.config import ConfigError
from speaq.files.atomic import check_links, replaced
from speaq.files.locks import NAME, Lock, check_held, held

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


@contextlib.contextmanager
def own_folder(output: Path, name: str = NAME) -> Iterator[Lock]:
    """A run folder for this process alone; one that was made for it and stays without a file goes again.

    Args:
        name: of the lock, see `Lock`.

    Raises:
        Busy: another process has it.
        Gone, Taken: this thread had it already, and has it no more.
    """
    check_held(output)  # what was taken away is not made again
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    made = output.stat().st_ino
    check_links(output)
    try:
        with held(output, name=name) as lock:
            yield lock
    finally:
        if is_new and output.exists() and output.stat().st_ino == made and not any(output.iterdir()):
            output.rmdir()


class CheckpointError(ConfigError):
    """A file that is not a usable checkpoint of ours."""


def copy(source: Path, target: Path) -> None:
    """Copies a checkpoint atomically."""
    with replaced(target) as temporary:
        shutil.copyfile(source, temporary)


def has_checkpoint(run: Path) -> bool:
    """Whether a run can go on from a checkpoint of its own."""
    return any((run / "checkpoints" / name).exists() for name in (LAST, PREVIOUS))


def find(path: Path) -> Path:
    """A checkpoint file as given, or the best (else last) one of a run folder."""
    if path.is_dir():
        for name in (BEST, LAST, PREVIOUS):
            candidate = path / "checkpoints" / name
            if candidate.exists():
                return candidate
        raise CheckpointError(f"{path}: no checkpoint in this run folder")
    return path
