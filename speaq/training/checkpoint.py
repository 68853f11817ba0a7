"""Checkpoints: written atomically, opened without unpickling foreign code, verified before use."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from speaq.config import ConfigError

log = logging.getLogger(__name__)

FORMAT = 1
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
DAMAGED = "damaged.pt"


class CheckpointError(ConfigError):
    """A file that is not a usable checkpoint of ours."""


def save(path: Path, content: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Writes `content` to `path` in one atomic step; an older file stays as previous.pt where asked.

    A crash at any moment leaves a complete file under `path` or, between the two renames, under previous.pt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            try:
                torch.save({"format": FORMAT, **content}, file)
            except RuntimeError as error:  # PyTorch's own words for a full disk
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            file.flush()
            os.fsync(file.fileno())
        if keep_previous and path.exists():
            path.replace(path.with_name(PREVIOUS))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy(source: Path, target: Path) -> None:
    """Copies a checkpoint atomically."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; the check sums of the archive are verified first.

    Raises:
        CheckpointError: missing, torn, foreign (nothing is executed: `weights_only`) or of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged (check sum of {damaged})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n", 1)[0][:160]
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}: {reason})") from error
    if not isinstance(content, dict) or "model" not in content or "config" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of speaq (no model and config in it)")
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {content.get('format')!r}, this version reads {FORMAT}")
    return content


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint of a run's `checkpoints` folder, or None where there is none.

    A damaged last.pt is set aside with a warning, so that it never takes the place of previous.pt, which is read
    instead; where neither can be read, that is raised.
    """
    candidates = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    for position, path in enumerate(candidates):
        try:
            return load(path)
        except CheckpointError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno not in (errno.EINVAL, errno.ENOENT):
                raise cause from None  # the storage's fault: the file may be good
            if position == len(candidates) - 1:
                raise
            log.warning("%s; falling back to %s", error, candidates[position + 1])
            with contextlib.suppress(FileNotFoundError):  # another worker of the run was quicker
                path.replace(path.with_name(DAMAGED))
    return None


def tidy(folder: Path) -> None:
    """Removes what a process that was killed while it wrote has left. Only for who has the run to himself."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def find(path: Path) -> Path:
    """A checkpoint file as given, or the best (else last) one of a run folder."""
    if path.is_dir():
        for name in (BEST, LAST, PREVIOUS):
            candidate = path / "checkpoints" / name
            if candidate.exists():
                return candidate
        raise CheckpointError(f"{path}: no checkpoint in this run folder")
    return path
