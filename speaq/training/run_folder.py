"""The files of a run folder by name, without what is in them: light to import, PyTorch takes seconds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from speaq.config import ConfigError

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


class CheckpointError(ConfigError):
    """A file that is not a usable checkpoint of ours."""


def copy(source: Path, target: Path) -> None:
    """Copies a checkpoint atomically."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def find(path: Path) -> Path:
    """A checkpoint file as given, or the best (else last) one of a run folder."""
    if path.is_dir():
        for name in (BEST, LAST, PREVIOUS):
            candidate = path / "checkpoints" / name
            if candidate.exists():
                return candidate
        raise CheckpointError(f"{path}: no checkpoint in this run folder")
    return path
