"""Checkpoints: written atomically, opened without unpickling foreign code, verified before use."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speaq.config import ConfigError
from speaq.files.atomic import MARK, replaced
from speaq.files.atomic import tidy as tidy
from speaq.files.foreign import ForeignError, is_zip, load_tensors, skipped
from speaq.files.locks import check_held
from speaq.files.regular import check_regular
from speaq.model.reference_weights import is_reference
from speaq.plain_text import is_text
from speaq.training import folder as run_folder
from speaq.training.folder import BEST as BEST
from speaq.training.folder import LAST as LAST
from speaq.training.folder import PREVIOUS as PREVIOUS
from speaq.training.folder import CheckpointError as CheckpointError
from speaq.training.folder import copy as copy

log = logging.getLogger(__name__)

FORMAT = 1
DAMAGED = "damaged.pt"


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Writes `content` to `path` in one atomic step.

    Raises:
        Gone, Taken: this thread has the run folder no more, see `speaq.files.locks`.
        OSError: the file cannot be written.
    """
    with _replaced(path, content):
        pass  # no other file takes its place with it


def save_step(folder: Path, last: Mapping[str, Any], best: Mapping[str, Any] | None = None) -> None:
    """Writes last.pt, whose older file stays as previous.pt, and best.pt where it is given, as one step.

    Both are complete on disk before the first of them takes its place, so that a full disk changes nothing. Then
    best.pt comes first: a last.pt that says what the best is never lies beside the best.pt of another step. A process
    that is killed in between leaves the new last.pt, complete, under its temporary name: `settle` gives it its place.
    Raises as `save`.
    """
    with _replaced(folder / LAST, last):
        if best is not None:
            save(folder / BEST, best)
        _keep_previous(folder / LAST)


@contextlib.contextmanager
def _replaced(path: Path, content: Mapping[str, Any]) -> Iterator[None]:
    """A new file is complete on disk when the block begins, and takes the place of `path` when it ends."""
    check_held(path.parent.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replaced(path) as temporary:
            with temporary.open("wb") as file:
                try:
                    torch.save({"format": FORMAT, **content}, file)
                except RuntimeError as error:  # PyTorch's own words for a full disk
                    raise error.__context__ if isinstance(error.__context__, OSError) else error from None
                file.flush()
                os.fsync(file.fileno())
            yield
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say of which file
        raise


def _keep_previous(path: Path) -> None:
    if path.exists():
        path.replace(path.with_name(PREVIOUS))


def find(path: Path) -> Path:
    """A checkpoint file as given, or the best one of a run folder; where that is missing the last one, which is said.

    Raises CheckpointError where there is none, or the one that is left cannot be read.
    """
    file = run_folder.find(path)
    if path.is_dir() and file.name != BEST:
        step = load(file)["step"]
        log.warning("%s: has no %s; %s of step %d is used, which need not be its best", path, BEST, file.name, step)
    return file


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
    return value is None or (isinstance(value, list | tuple) and all(isinstance(n, str) and is_text(n) for n in value))


def _is_evaluation(value: Any) -> bool:
    """What a run notes of its best evaluation."""
    kinds = {"metric": str, "value": int | float, "step": int, "metrics": dict}
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


_WANTED: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_state,
    "config": lambda value: isinstance(value, dict),
    "task": lambda value: isinstance(value, str),
    "step": lambda value: type(value) is int and 0 <= value < 2**53,
    "objects": _are_names,
    "predicates": _are_names,
    "data_digest": lambda value: isinstance(value, str | None),
    "best": lambda value: value is None or value == {} or _is_evaluation(value),
    "evaluated": lambda value: value is None or type(value) is int,
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


def settle(folder: Path) -> None:
    """Ends what a process that was killed while it wrote has begun, or undoes it. Only for who has the run to himself.

    A new last.pt that is complete takes its place where best.pt is already the one that it names, see `save_step`.
    """
    for path in folder.glob(f".*{MARK}{LAST}"):
        try:
            content = load(path)
        except CheckpointError:  # killed earlier: no file has taken its place yet
            continue
        best = content.get("best")
        if holds(folder / BEST, best) if best else not (folder / BEST).exists():
            _keep_previous(folder / LAST)
            path.replace(folder / LAST)
    tidy(folder)


def holds(path: Path, best: Mapping[str, Any]) -> bool:
    """Whether the file is a checkpoint of the evaluation `best` (its metric, value and step)."""
    try:
        content = load(path)
    except CheckpointError:
        return False
    noted = best if content["best"] is None else content["best"]  # earlier versions wrote the step alone
    same = all(noted.get(name) == best.get(name) for name in ("metric", "value", "step"))
    return content["step"] == best["step"] and same
