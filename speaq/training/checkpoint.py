"""Checkpoints: written atomically, opened without unpickling foreign code, verified before use."""

from __future__ import annotations

import contextlib
import errno
import logging
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speaq.config import ConfigError
from speaq.files.atomic import replaced
from speaq.files.atomic import tidy as tidy
from speaq.files.locks import check_held
from speaq.files.regular import check_regular
from speaq.foreign import ForeignError, is_zip, load_tensors, skipped
from speaq.model.reference_weights import is_reference
from speaq.training.run_folder import BEST as BEST
from speaq.training.run_folder import LAST as LAST
from speaq.training.run_folder import PREVIOUS as PREVIOUS
from speaq.training.run_folder import CheckpointError as CheckpointError
from speaq.training.run_folder import copy as copy
from speaq.training.run_folder import find as find

log = logging.getLogger(__name__)

FORMAT = 1
DAMAGED = "damaged.pt"


def save(path: Path, content: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Writes `content` to `path` in one atomic step; an older file stays as previous.pt where asked.

    A crash at any moment leaves a complete file under `path` or, between the two renames, under previous.pt.

    Raises:
        Gone, Taken: this thread has the run folder no more, see `speaq.files.locks`.
        OSError: the file cannot be written.
    """
    check_held(path.parent.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        with temporary.open("wb") as file:
            try:
                torch.save({"format": FORMAT, **content}, file)
            except RuntimeError as error:  # PyTorch's own words for a full disk
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        if keep_previous and path.exists():
            path.replace(path.with_name(PREVIOUS))


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU; the check sums of the archive are verified first.

    Raises:
        CheckpointError: missing, torn, foreign (nothing is executed: `weights_only`) or of another format.
    """
    try:
        with check_regular(path).open("rb") as file:  # by name, an error of the storage would count as no archive
            if not is_zip(file):  # older files of torch have no check sums
                raise ForeignError("not a zip archive, as torch.save writes one")
        content = load_tensors(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (OSError, ForeignError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({str(error)[:200]})") from error
    if is_reference(content):
        raise CheckpointError(f"{path}: is a file of the reference; speaq convert {path} RUN makes a run folder of it")
    if not isinstance(content, dict) or "model" not in content or "config" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of speaq (no model and config in it)")
    if (kind := skipped(content)) is not None:
        raise CheckpointError(f"{path}: not a checkpoint of speaq: it holds a {kind}")
    if type(written := content.get("format")) is not int or written != FORMAT:
        raise CheckpointError(f"{path}: format {_shown(written)}, this version reads {FORMAT}")
    for name, fits in _WANTED.items():
        if not fits(content.setdefault(name, None)):
            raise CheckpointError(f"{path}: {name} is not what speaq writes ({_shown(content[name])})")
    return content


def _shown(value: Any) -> str:
    """Short, and in one line: tensors take several."""
    return " ".join(reprlib.repr(value).split())


def load_speaq(path: Path) -> dict[str, Any]:
    """A checkpoint of SpeaQ, no detector's. Raises CheckpointError as `load`, ConfigError for another task's."""
    content = load(path)
    if content["task"] != "speaq":
        raise ConfigError(f"{path}: is a {content['task']}'s checkpoint, which predicts no triplet")
    return content


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _are_names(value: Any) -> bool:
    """Names of classes; None in a checkpoint that was converted without data."""
    return value is None or (
        isinstance(value, list | tuple) and all(isinstance(n, str) and n.isprintable() for n in value)
    )


_WANTED: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_state,
    "config": lambda value: isinstance(value, dict),
    "task": lambda value: isinstance(value, str),
    "step": lambda value: type(value) is int and 0 <= value < 2**53,
    "objects": _are_names,
    "predicates": _are_names,
    "data_digest": lambda value: isinstance(value, str | None),
}


def count(content: Mapping[str, Any], head: str, where: object) -> int:
    """Classes that a head tells apart, no-class left out. Raises CheckpointError where there is no such head."""
    bias = content["model"].get(f"transformer.{head}.bias")
    if bias is None or bias.ndim != 1 or len(bias) < 2:
        raise CheckpointError(f"{where}: transformer.{head}.bias is missing, or holds no class")
    return len(bias) - 1


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
